"""Known vulnerabilities in the locked versions: `python audit.py requirements.lock`, by pip-audit.

Exit status 1 if there are any. Where PyPI's list of them cannot be reached, one sentence says so.
"""

import json
import subprocess
import sys


def main(lock: str) -> str:
    """A sentence that nothing is known, or why nothing was looked up.

    Raises:
        SystemExit: the vulnerabilities that are known, one per line.
    """
    options = ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        return f"audit: skipped, {(done.stderr.strip() or 'it says nothing').splitlines()[-1]}"
    found = json.loads(done.stdout)["dependencies"]
    looked_up = [package for package in found if "skip_reason" not in package]
    if not looked_up:
        return "audit: skipped, PyPI's list of vulnerabilities cannot be reached from here"
    known = [
        f"{package['name']} {package['version']}: {one['id']}, "
        f"fixed in {', '.join(one['fix_versions']) or 'no version'}"
        for package in looked_up
        for one in package["vulns"]
    ]
    if known:
        raise SystemExit("\n".join(["audit: raise these versions, then make lock", *known]))
    return f"audit: nothing is known of {len(looked_up)} of {len(found)} packages"


if __name__ == "__main__":
    print(main(sys.argv[1]))
