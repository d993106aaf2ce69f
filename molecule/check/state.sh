# Print the state that a check may not change. The servers' own files change by themselves: their content is asked for.
export LC_ALL=C
postgres=/var/lib/postgresql clickhouse=/var/lib/clickhouse

# A file's ctime moves with every change of content, mode or owner. A directory's moves with Ansible's temporary files.
find / -xdev \( -path /proc -o -name .ansible -o -path "/var/cache/apt/*.bin" -o -path /tmp -o -path /var/log -o -path /var/lib/systemd -o -path /var/tmp \
    -o -path "$postgres/*" -o -path "$clickhouse/*" \) -prune \
    -o -type d -printf 'directory %p %m %u:%g\n' -o -printf 'file %p %m %u:%g %s %C@ %l\n' | sort
dpkg-query -W -f 'package ${Package} ${Version} ${db:Status-Status}\n'
# systemd-timedated is what timedatectl asks: it comes and goes by itself.
systemctl show --property Id,MainPID,ActiveState,UnitFileState '*.service' | paste -sd ' ' | sed 's/  /\n/g' \
    | sort | grep -v systemd-timedated | sed 's/^/unit /'
if command -v pg_lsclusters > /dev/null && pg_lsclusters -h | grep -q online; then
    # Newer releases print a random word around the dump.
    runuser -u postgres -- pg_dumpall | grep -v -E '^.(un)?restrict' | sha256sum | sed 's/^/postgresql /'
fi
