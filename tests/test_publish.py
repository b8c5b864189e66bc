"""What runs leave for the repository: how each stage was made, seeds side by side, pages filled."""

from ppfer import cli, measure, publish
from ppfer.method import PIPELINE


def test_finished_lists_what_was_made(tiny_run):
    listed = publish.finished(tiny_run.dir)
    assert set(PIPELINE) <= set(listed) and listed["identity"]["device"].startswith("CPU")
    assert listed["identity"]["steps"] == 3 and listed["clips"]["seconds"] >= 0
    assert all(listed[name]["key"] == tiny_run.key(name) for name in PIPELINE)


def test_seeds_of_finished_runs_become_one_table(tmp_path, capsys):
    for name, k in (("smoke", 3), ("smoke-seed7", 5)):
        rows = [{"approach": "PPFER (C)", "plr": measure.Rate(k, 10)}]
        measure.write_table(rows, tmp_path / name / "tables", "main")
    command = ["seeds", "--profile", "smoke", "--runs-dir", str(tmp_path), "--seeds"]
    assert cli.main([*command, "0,7"]) == 0
    assert "40.0 ± 14.1 %" in capsys.readouterr().out
    assert cli.main([*command, "0,8"]) == 2
    assert "run: ppfer run --profile smoke --seed 8" in capsys.readouterr().err


def test_pages_are_filled_from_files():
    table = (publish.REPO / "figures" / "demo" / "main.md").read_text()
    page = "a\n<!-- figures/demo/main.md -->\nold\n<!-- end -->\nb\n"
    page += "<!-- figures/no/such.md -->\nkept\n<!-- end -->\n"
    filled = publish.fill(page)
    assert table in filled and "old" not in filled and "kept" in filled
    assert publish.fill(filled) == filled
