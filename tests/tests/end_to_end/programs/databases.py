# SQLite with its locks, journals and shared memory, from two connections; dbm and shelve.
import os, shelve, sqlite3, tempfile

for mode in ["delete", "wal", "memory"]:
    name = f"{mode}.db"
    one, two = sqlite3.connect(name), sqlite3.connect(name)
    assert one.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
    one.execute("create table t(a integer primary key, b text)")
    one.executemany("insert into t(b) values (?)", [(str(n),) for n in range(1000)])
    one.commit()
    assert two.execute("select count(*) from t").fetchone() == (1000,)
    one.execute("vacuum")
    one.close()
    two.close()
with shelve.open("shelf") as shelf:
    shelf["a"] = [1, 2]
with shelve.open("shelf") as shelf:
    assert shelf["a"] == [1, 2]
with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "x")
    with open(path, "w") as file:
        file.write("x")
    assert os.stat(path).st_size == 1
with tempfile.TemporaryFile() as file:
    file.write(b"x")
with tempfile.NamedTemporaryFile() as file:
    assert os.path.exists(file.name)
fd, path = tempfile.mkstemp()
os.unlink(path)
print("ok")
