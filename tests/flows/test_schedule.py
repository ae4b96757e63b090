"""Cron lines, time zones and the schedules of prefect.yaml are checked before anything starts."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.helpers.forks import ROOT

pytest.importorskip("prefect")

from flows.server.schedule import check_deployed_schedules, find_next_dates, parse_cron

BAD_CRON = {
    "0 3 30 2 *": "there is no such day",
    "0 3 31 2,4 *": "there is no such day",
    "0 3 31 4/12 *": "there is no such day",
    "0 3 31 2,4,6,9,11 *": "there is no such day",
    "0 0 3 * * *": "it has six fields: write five",
    "0 0 3 * * * *": "it has seven fields: write five",
    "0 3 * *": "it has four fields: write five",
    "": "it has no fields: write five",
    "   ": "it has no fields: write five",
    "61 3 * * *": "is not valid",
    "0 24 * * *": "is not valid",
    "* * 0 * *": "is not valid",
    "@reboot": "is not valid",
    "R R * * *": "is not valid",
    "0 3 * * MON#6": "is not valid",
    "0 3 * * *\x1b[2J": "is not valid",
    "a b c d e": "is not valid",
}


@pytest.mark.parametrize("cron", BAD_CRON)
def test_parse_cron_rejects_what_cannot_be_meant(cron):
    with pytest.raises(ValueError, match=BAD_CRON[cron]):
        parse_cron(cron)


@pytest.mark.parametrize(
    "cron", ["0 3 * * *", "*/5 * * * *", "0 3 29 2 *", "0 3 31 1,2 *", "0 3 * * MON-FRI", "@daily"]
)
def test_parse_cron_accepts_what_comes(cron):
    assert parse_cron(cron).cron == cron
    dates = find_next_dates(cron, "UTC")
    assert len(dates) == 3
    assert datetime.now(UTC) < dates[0] < dates[1] < dates[2]


def test_find_next_dates_matches_the_calendar():
    today = datetime.now(UTC).date()
    days = (today + timedelta(days=number) for number in range(366 * 9))
    leap = next(day for day in days if (day.month, day.day) == (2, 29) and day > today)
    assert find_next_dates("0 3 29 2 *", "UTC", 1)[0].date() == leap
    first = find_next_dates("30 2 1 1 *", "Asia/Kolkata", 1)[0]
    assert (first.date(), first.hour, first.utcoffset()) == (date(today.year + 1, 1, 1), 2, timedelta(hours=5.5))
    assert find_next_dates("0 3 30 2 *", None) == []


@pytest.mark.parametrize("timezone", ["Europe/Nowhere", "", "/etc/passwd", "../UTC", "Europe", "a\0b", "CETT"])
def test_parse_cron_rejects_an_unknown_time_zone(timezone):
    with pytest.raises(ValueError, match=r"time zone .* is unknown"):
        parse_cron("0 3 * * *", timezone)


def write_deployments(folder: Path, schedules: str) -> Path:
    path = folder / "prefect.yaml"
    path.write_text(f"deployments:\n- name: reindex\n  schedules: {schedules}\n")
    return path


NIGHTLY = "{cron: 0 3 * * *, timezone: UTC, slug: nightly}"
BAD_SCHEDULES = {
    "[{cron: 0 3 30 2 *, slug: nightly}]": "deployment reindex: .*there is no such day",
    "[{cron: 0 0 3 * * *, slug: nightly}]": "deployment reindex: .*six fields",
    f"[{NIGHTLY}, {{cron: 0 3 * * *, timezone: Europe/Nowhere}}]": "deployment reindex: .*time zone",
    f"[{NIGHTLY}, {{interval: 0}}]": "deployment reindex: The interval 0 is not above 0",
    f"[{NIGHTLY}, {{interval: -60}}]": "deployment reindex: The interval -60 is not above 0",
    f"[{NIGHTLY}, {{interval: .nan}}]": "deployment reindex: The interval nan is not above 0",
    f"[{NIGHTLY}, {{interval: often}}]": "deployment reindex: ",
    "[{cron: 0 3 * * *, slug: nightlly}]": "the deployment reindex has no schedule 'nightly'",
    "[]": "the deployment reindex has no schedule 'nightly'",
    "[5]": "deployment reindex: ",
    "5": "is not a list of deployments",
    "[": "is not a list of deployments",
}


@pytest.mark.parametrize("schedules", BAD_SCHEDULES)
def test_bad_schedule_of_the_deployments_is_named_with_its_file(schedules, tmp_path):
    path = write_deployments(tmp_path, schedules)
    with pytest.raises(ValueError, match=BAD_SCHEDULES[schedules]) as found:
        check_deployed_schedules(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("content", [b"\xff", b"", b"deployments: 3", b"- a", b"deployments: [{}]"])
def test_file_that_is_no_list_of_deployments_is_named(content, tmp_path):
    (tmp_path / "prefect.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"prefect.yaml is not a list of deployments"):
        check_deployed_schedules(tmp_path / "prefect.yaml")


def test_shipped_deployments_pass():
    check_deployed_schedules(ROOT / "prefect.yaml")
