"""junit.py XML...: `STATUS<tab>NAME` for each test of JUnit reports, as results are wanted."""

import sys
import xml.etree.ElementTree as tree

seen = {}
for path in sys.argv[1:]:
    for case in tree.parse(path).iter("testcase"):
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        kinds = {child.tag for child in case}
        status = "fail" if kinds & {"failure", "error"} else "skip" if "skipped" in kinds else "ok"
        # Several reports of one test (say, of its teardown): the worst counts.
        order = ("ok", "skip", "fail")
        seen[name] = max(seen.get(name, "ok"), status, key=order.index)
for name, status in seen.items():
    print(status, " ".join(name.split()), sep="\t")
