"""tap.py FILE.t...: runs Perl tests; `STATUS<tab>NAME` for each of their lines, as results are wanted."""

import os
import re
import subprocess
import sys

LINE = re.compile(r"(not )?ok (\d+)(?: -?\s*(.*))?")
results = open(os.environ["OUT"] + "/results", "w")
for path in sys.argv[1:]:
    print(f"--- {path}", flush=True)
    try:
        done = subprocess.run(["perl", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120)
        out, ended = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as late:
        out, ended = (late.stdout or b"").decode(errors="replace"), "takes too long"
    print(out, flush=True)
    for line in out.splitlines():
        if found := LINE.match(line):
            bad, number, what = found.groups()
            what = what or ""
            status = "skip" if "# skip" in what.lower() else "fail" if bad else "ok"
            # What is in it may differ: ids, times.
            results.write(f"{status}\t{path}:{number}\n")
    results.write(f"{'ok' if ended == 0 else 'fail'}\t{path}\n")
    results.flush()
