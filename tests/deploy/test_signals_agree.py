"""Dashboard and alerts speak of metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem_core.signals import exported_names

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "tandem.json"


def named(expression: str) -> set[str]:
    return set(re.findall(r"\btandem_[a-z_]+", expression))


def dashboard_expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    variables = [each["query"] for each in dashboard["templating"]["list"]]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_every_metric_that_is_looked_at_exists() -> None:
    looked_at = [*dashboard_expressions(), *(rule["expr"] for rule in alerts())]
    assert set().union(*map(named, looked_at)) - exported_names() == set()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {re.sub("_(bucket|sum|count)$", "", name) for text in dashboard_expressions() for name in named(text)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in exported_names()} - shown == set()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        assert {"summary", "action"} <= set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong() -> None:
    for kind, path in (("config", ALERTS.parent / "prometheus.yaml"), ("rules", ALERTS)):
        checked = subprocess.run(["promtool", "check", kind, path], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_every_alert_fires_on_what_it_is_for_and_none_while_all_is_well(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "alerts_test.yaml").read_text()
    assert all(f'alertname="{rule["alert"]}"' in text for rule in alerts())
    (tmp_path / "alerts_test.yaml").write_text(text.replace("[ALERTS]", f"[{ALERTS}]"))
    tested = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "alerts_test.yaml"], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
