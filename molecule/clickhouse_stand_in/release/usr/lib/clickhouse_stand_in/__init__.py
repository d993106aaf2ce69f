# Stand-in for ClickHouse. Not ClickHouse: see server.py and keeper.py for what it pretends.
