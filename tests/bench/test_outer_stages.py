"""The cost of every method's outer stage, beside HoliTom's on the same video."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from holitom.bench import outer_stages as module
from holitom.cli.app import app


def test_each_method_is_measured_beside_holitom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAMES", 4)
    monkeypatch.setattr(module, "WIDTH", 64)
    run = CliRunner().invoke(
        app, ["bench", "overhead", "--methods", "full,holitom,visionzip,aot,dycoke", "--no-long", "--json"]
    )
    assert run.exit_code == 0, run.output
    stages = {stage["title"]: stage for stage in json.loads(run.stdout)["methods"]}
    assert set(stages) == {"HoliTom 10%", "VisionZip 10%", "AOT 10%", "DyCoke 10%"}
    assert stages["HoliTom 10%"]["count"]["synchronisations"] == 1
    assert stages["HoliTom 10%"]["short"]["seconds"] > 0
    assert stages["HoliTom 10%"]["against_holitom"] > 0
    assert stages["DyCoke 10%"]["short"] is None
    assert "0.25" in stages["DyCoke 10%"]["refused"]


def test_the_table_names_who_was_refused_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FRAMES", 4), ("WIDTH", 64), ("LONG", 8), ("NARROW", 16)):
        monkeypatch.setattr(module, name, value)
    run = CliRunner().invoke(app, ["bench", "overhead", "--methods", "vidcom2,dycoke"])
    assert run.exit_code == 0, run.output
    told = run.stderr.splitlines()
    assert [line.split(":")[0] for line in told] == ["VidCom2 10%", "VidCom2 10%, long video", "DyCoke 10%"]
    assert "HoliTom's time" in told[0]
    assert "refused" in told[2]
    assert "VidCom2 10%" in run.stdout
    assert "Refused: DyCoke 10%" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 100


def test_precision_is_one_that_the_command_takes() -> None:
    run = CliRunner().invoke(app, ["bench", "overhead", "--methods", "holitom", "--dtype", "auto"])
    assert str(run.exception) == "dtype must be float32, bfloat16 or float16, not 'auto'"
