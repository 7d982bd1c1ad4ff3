"""Known vulnerabilities in what is installed here: tools/audit.py asks OSV, which has PyPI's advisories and others'.

One request with names and versions of what gatewayd needs (see sbom.py), nothing else leaves the machine. Where OSV
cannot be reached that is said, and nothing fails: this tells of the libraries, not of the network. With `--strict` it
does fail then, for a release.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

URL = "https://api.osv.dev/v1/querybatch"  # https://google.github.io/osv.dev/post-v1-querybatch/
_TIMEOUT_S = 20


def ask(components: Sequence[Mapping[str, Any]], url: str) -> list[tuple[str, list[str]]]:
    """Those with known vulnerabilities: purl, ids. Raises OSError when nobody answers, ValueError for no answer."""
    asked = {"queries": [{"package": {"purl": each["purl"]}} for each in components]}
    request = urllib.request.Request(  # noqa: S310 - the address is ours, or a person's
        url, data=json.dumps(asked).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        answer = json.load(response)
    results = answer["results"]
    if len(results) != len(components):
        raise ValueError(f"asked for {len(components)} components, {len(results)} were answered")
    pairs = zip(components, results, strict=True)
    return [(each["purl"], [v["id"] for v in found["vulns"]]) for each, found in pairs if found.get("vulns")]


def main() -> int:
    """Print what was found; exit status 1 where there is anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--strict", action="store_true", help="fail where the database cannot be reached")
    parser.add_argument("--ignore", action="append", default=[], help="id of a vulnerability that does not reach us")
    parser.add_argument("--sbom", type=Path, help="of this bill of materials instead of what is installed here")
    parser.add_argument("--url", default=URL)
    asked = parser.parse_args()
    if asked.sbom is None:
        from sbom import bill

        components = bill()["components"]
    else:
        components = json.loads(asked.sbom.read_text(encoding="utf-8"))["components"]
    try:
        found = ask(components, asked.url)
    except (OSError, ValueError, KeyError) as error:
        print(f"audit: {asked.url} cannot be asked ({error}), so {len(components)} libraries were NOT audited")
        return 1 if asked.strict else 0
    n_open = 0
    for purl, ids in found:
        for each in ids:
            is_ignored = each in asked.ignore
            n_open += not is_ignored
            print(f"{purl}: {each}{' (ignored)' if is_ignored else ''}  https://osv.dev/{each}")
    print(f"audit: {len(components)} libraries, {n_open} known vulnerabilities")
    return 1 if n_open else 0


if __name__ == "__main__":
    sys.exit(main())
