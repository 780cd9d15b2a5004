"""What is known against the packages that are installed here: `python .ci/audit.py`, by pip-audit.

Ends with 0 where all of them were checked and nothing is known; with 1 where one has a vulnerability and a version without it;
with 3 where it could not be checked. pip-audit takes "not found" for "nothing found" and ends with 0, so where only packages are
served, all would look fine: a service is believed once it names the vulnerability of an old release that has one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONTROL = "jinja2==2.4.1"
"""Known to be vulnerable since 2014 (CVE-2014-0012)."""
SERVICES = ("pypi", "osv")
FINE, FOUND, COULD_NOT = 0, 1, 3
OWN = "trivium"


def asked(service: str, *arguments: str) -> list[dict[str, Any]]:
    """pip-audit's entry for each package: `vulns`, or a `skip_reason`. RuntimeError with its last line if it gave none."""
    command = ["pip_audit", "--vulnerability-service", service, "--format", "json", "--timeout", "10"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--progress-spinner", "off", *arguments],
        capture_output=True,
        text=True,
    )
    try:
        entries: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise RuntimeError((done.stderr.splitlines() or ["no answer"])[-1]) from None
    return entries


def answers(service: str) -> str:
    """Why it is not to be believed; empty if it is."""
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control.txt"
        control.write_text(CONTROL + "\n")
        try:
            (entry,) = asked(service, "--no-deps", "--disable-pip", "-r", str(control))
        except RuntimeError as error:
            return str(error)
    return "" if entry.get("vulns") else entry.get("skip_reason") or f"it knows nothing against {CONTROL}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", nargs="+", default=SERVICES, help="are tried in order")
    for service in parser.parse_args().services:
        why = answers(service)
        if why:
            print(f"{service}: {why}")
            continue
        try:
            entries = [entry for entry in asked(service) if entry["name"] != OWN]
        except RuntimeError as error:
            print(f"{service}: {error}")
            continue
        return told(service, entries)
    print("COULD NOT CHECK: no service answered, so nothing is known about any installed package")
    return COULD_NOT


def told(service: str, entries: list[dict[str, Any]]) -> int:
    """Prints what was found and what could not be asked."""
    skipped = [f"{entry['name']}: {entry['skip_reason']}" for entry in entries if "skip_reason" in entry]
    found = [(entry, vulnerability) for entry in entries for vulnerability in entry.get("vulns", ())]
    print(f"{service}: {len(entries) - len(skipped)} of {len(entries)} packages checked")
    for entry, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        names = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
        print(f"  {entry['name']} {entry['version']}: {names}; mended in {fixed}")
    if skipped:
        print("COULD NOT CHECK:", *skipped, sep="\n  ")
    if any(vulnerability["fix_versions"] for _, vulnerability in found):
        return FOUND
    return COULD_NOT if skipped else FINE


if __name__ == "__main__":
    sys.exit(main())
