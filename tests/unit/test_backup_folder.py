"""The folder of backups: what counts as one, what is kept, and what nobody else's hands may have touched."""

import datetime
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import backup_folder
from ansible_collections.frameworks.database.plugins.module_utils.backup_folder import BackupError, Store
from ansible_collections.frameworks.database.plugins.module_utils.backup_run import Different, require_intact
from hypothesis import given, settings
from hypothesis import strategies as st
from support.modules import ModuleFailed, run_module


@pytest.fixture
def store(tmp_path):
    """An empty Store."""
    store = Store(tmp_path / "backups", "postgresql")
    store.prepare()
    return store


def make(store, days=0.0, proof=None, base=None):
    """A backup that is `days` old; its name. proof: None, True (passed) or False (failed)."""
    with store.new({"databases": {"a": {}}, "base": base}) as folder:
        Path(folder, "a.dump").write_text("contents")
    backup = store.made
    created = (backup_folder.now() - datetime.timedelta(days=days)).isoformat()
    backup_folder.write_json(f"{backup.path}/manifest.json", {**backup.manifest, "created": created})
    if proof is not None:
        backup.record_proof(proof, "")
    return backup.name


def names(store):
    return [backup.name for backup in store.backups()]


def test_a_backup_has_its_name_only_when_it_is_complete(store):
    with store.new({"databases": {}}) as folder:
        Path(folder, "a").touch()
        assert store.backups() == [] and os.stat(folder).st_mode & 0o777 == 0o700
    assert names(store) == [store.made.name]
    for name in ("a", "manifest.json"):
        assert os.stat(f"{store.made.path}/{name}").st_mode & 0o777 == 0o600
    assert os.stat(store.made.path).st_mode & 0o777 == 0o700


def test_a_failed_backup_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.new({"databases": {}}) as folder:
        Path(folder, "a").touch()
        raise ZeroDivisionError
    assert os.listdir(store.path) == []


def test_an_empty_backup_and_a_link_in_one_are_refused(store, tmp_path):
    with pytest.raises(BackupError, match="empty"), store.new({"databases": {}}):
        pass
    os.chmod(tmp_path, 0o755)
    with pytest.raises(BackupError, match="neither a file nor a folder"), store.new({"databases": {}}) as folder:
        os.symlink(tmp_path, f"{folder}/elsewhere")
    assert os.listdir(store.path) == [] and os.stat(tmp_path).st_mode & 0o777 == 0o755


def test_what_a_killed_run_has_left_is_removed_and_nothing_else(store):
    context = store.new({"databases": {}})
    left = context.__enter__()
    os.makedirs(f"{store.path}/.partial-of-somebody-else")
    os.makedirs(f"{store.path}/20200101T000000Z")
    # Killed before it had written anything, or while it was deleted.
    os.makedirs(f"{store.path}/.partial-20200101T000000Z/data")
    store.clean()
    assert not os.path.exists(left)
    assert sorted(os.listdir(store.path)) == [".partial-of-somebody-else", "20200101T000000Z"]
    context.gen.close()


def test_two_in_one_second_have_names_of_their_own(store):
    assert len({make(store) for _number in range(3)}) == 3


@pytest.mark.parametrize("harm, said", [
    (lambda path: path.write_text("contents and more"), "bytes instead of"),
    (lambda path: path.write_text("Contents"), "SHA-256"),
    (Path.unlink, "No such file"),
])
def test_damage_is_named(store, harm, said):
    backup = store.find(make(store))
    harm(Path(backup.path, "a.dump"))
    with pytest.raises(Different, match=rf"a\.dump.*{said}"):
        require_intact(store, backup)


def test_an_increment_is_no_better_than_what_it_adds_to(store):
    base = make(store)
    backup = store.find(make(store, base=base))
    require_intact(store, backup)
    Path(store.path, base, "a.dump").write_text("Contents")
    with pytest.raises(Different, match=base):
        require_intact(store, backup)
    store.remove(store.find(base))
    with pytest.raises(Different, match="not there any more"):
        require_intact(store, backup)


def test_latest_is_the_newest_good_one(store):
    wanted = make(store, days=3)
    make(store, days=2, proof=False)
    short = make(store, days=1)
    Path(store.path, short, "a.dump").write_text("cut")
    assert store.find("latest").name == wanted
    with pytest.raises(BackupError, match=rf"no backup yesterday's.*{wanted}"):
        store.find("yesterday's")


def test_other_engines_and_broken_manifests_are_not_seen(store):
    make(store)
    assert Store(store.path, "clickhouse").backups() == []
    for number, text in enumerate(("", "{}", "[]", '{"tool": "frameworks.database"}', '{"tool": 1, "files": {}}')):
        os.makedirs(f"{store.path}/{number}")
        Path(store.path, str(number), "manifest.json").write_text(text)
    assert len(store.backups()) == 1
    with pytest.raises(BackupError, match="no good backup"):
        Store(store.path, "clickhouse").find("latest")


def prune(store, check=False, **options):
    return run_module("backup_prune", {"path": store.path, **options}, check=check)


def test_retention_wants_both_count_and_age_exceeded(store):
    old, older, oldest = (make(store, days=days) for days in (20, 30, 40))
    new = make(store, days=1)
    assert prune(store, keep=2, keep_days=35, check=True)["removed"] == [oldest]
    assert oldest in names(store)
    result = prune(store, keep=2, keep_days=25)
    assert (result["changed"], result["removed"]) == (True, [oldest, older])
    assert names(store) == [old, new]
    assert prune(store, keep=2, keep_days=25)["changed"] is False


def test_the_last_good_one_and_foreign_folders_stay(store):
    good = make(store, days=400)
    for days in (300, 200):
        make(store, days=days, proof=False)
    os.makedirs(f"{store.path}/20200101T000000Z")
    assert len(prune(store, keep=1, keep_days=0)["removed"]) == 2
    assert names(store) == [good] and os.path.isdir(f"{store.path}/20200101T000000Z")


def test_a_prune_that_was_killed_is_completed_by_the_next(store, monkeypatch):
    make(store, days=1)
    old = make(store, days=400)
    os.rename(f"{store.path}/{old}", f"{store.path}/before the upgrade")

    def killed(path, *_more, **_options):
        os.unlink(f"{path}/manifest.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backup_folder.shutil, "rmtree", killed)
        prune(store, keep=1, keep_days=7)
    assert len(os.listdir(store.path)) == 3 and len(names(store)) == 1
    assert prune(store, keep=1, keep_days=7, check=True)["changed"] is False and len(os.listdir(store.path)) == 3
    prune(store, keep=1, keep_days=7)
    assert sorted(os.listdir(store.path)) == [".lock", *names(store)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_cannot_be_deleted_is_named(store):
    make(store, days=1)
    old = Path(store.path, make(store, days=400))
    (old / "mounted").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", old / "mounted"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(ModuleFailed, match="mounted cannot be deleted: .*busy"):
            prune(store, keep=1, keep_days=7)
    finally:
        subprocess.run(["umount", next(path for path in Path(store.path).glob("*/mounted"))], check=True)


def test_what_a_kept_increment_adds_to_stays(store):
    base, gone = make(store, days=30), make(store, days=29)
    make(store, days=1, base=base)
    assert prune(store, keep=1, keep_days=7)["removed"] == [gone]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([None, True, False])), max_size=7, unique_by=lambda o: o[0]),
    st.integers(1, 4), st.integers(0, 40),
)
def test_pruning_takes_just_what_is_both_old_and_one_too_many(tmp_path_factory, made, keep, keep_days):
    store = Store(tmp_path_factory.mktemp("store"), "postgresql")
    age = {make(store, days + 0.5, proof): days + 0.5 for days, proof in made}
    good = sorted(days + 0.5 for days, proof in made if proof is not False)
    going = {age[backup.name] for backup in store.superfluous(keep, keep_days)}
    assert going == {days for days in age.values() if days > keep_days and days not in good[:keep]}


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep_days": -1}])
def test_nonsense_is_refused(store, options):
    with pytest.raises(ModuleFailed, match="never removed"):
        prune(store, **options)


def test_a_folder_that_is_not_there_has_nothing_to_prune(tmp_path):
    result = run_module("backup_prune", {"path": str(tmp_path / "none")})
    assert (result["changed"], os.listdir(tmp_path)) == (False, [])


def test_the_second_run_waits_and_then_names_the_first(store):
    with store.locked(1), pytest.raises(BackupError, match=f"process {os.getpid()}, since"), store.locked(0):
        pass
    with store.locked(0):
        pass


def test_an_increment_without_its_base_is_not_the_last_good_one(store):
    wanted, base = make(store, days=30), make(store, days=29)
    make(store, days=28, base=base)
    Path(store.path, base, "a.dump").unlink()
    assert store.find("latest").name == wanted
    assert wanted not in prune(store, keep=1, keep_days=0)["removed"]


def test_what_a_wrong_clock_dated_in_the_future_is_not_the_newest(store):
    old, ahead, new = make(store, days=2), make(store, days=-3650), make(store)
    assert store.find("latest").name == new and names(store) == [ahead, old, new]
    assert prune(store, keep=1, keep_days=0)["removed"] == [old]
