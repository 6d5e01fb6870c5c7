"""What a kill leaves half written, and what only looks like it."""

from superbatch.files import half_written, write_atomically
from superbatch.run import RunFolder


OTHERS = (".notes.markdown", ".x.settings", "sub/.a.runs2024", "b.0a1b2c3d", ".config.json")


def test_what_is_being_written_is_known_by_its_name(tmp_path):
    found = []

    def write(beside):
        beside.write_text("half")
        found.append([half_written(tmp_path, name) for name in ("a.json", "b.json", "*")])
        found.append([beside])

    write_atomically(tmp_path / "a.json", write)
    (a, b, every), only = found
    assert a == every == only
    assert b == []


def test_going_back_removes_what_a_kill_left_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    (run / "sub" / ".old.0a1b2c3d").mkdir(parents=True)
    for name in OTHERS:
        (run / name).write_text("mine")
    (run / "checkpoints").mkdir()
    for name in (".config.json.0a1b2c3d", "checkpoints/.step-00000002.pt.ffffffff"):
        (run / name).write_text("half")
    RunFolder(run).rewind(0)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*")}
    assert left == {*OTHERS, "sub", "sub/.old.0a1b2c3d", "checkpoints"}
