"""Installs WordPress, logs in, posts, comments and reads it all back, with a script for a browser."""

import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

OUT = Path(os.environ["OUT"])
SITE = OUT / "site"

CONFIG = """<?php
define('DB_NAME', 'suite');
define('DB_USER', '{USER}');
define('DB_PASSWORD', '{PASSWORD}');
define('DB_HOST', '{HOST}:{PORT}');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);
define('WP_DEBUG', true);
define('WP_DEBUG_DISPLAY', false);
define('WP_DEBUG_LOG', '{OUT}/debug.log');
$table_prefix = 'wp_';
if (!defined('ABSPATH')) define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
"""

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
base = f"http://127.0.0.1:{port}"
(SITE / "wp-config.php").unlink(missing_ok=True)
config = CONFIG
for name in ("USER", "PASSWORD", "HOST", "PORT", "OUT"):
    config = config.replace("{" + name + "}", os.environ[name])
(SITE / "wp-config.php").write_text(config)
# Mail goes nowhere.
server = subprocess.Popen(
    ["php", "-d", "sendmail_path=/bin/true", "-S", f"127.0.0.1:{port}", "-t", str(SITE)],
    env={**os.environ, "PHP_CLI_SERVER_WORKERS": "4"}, stdin=subprocess.DEVNULL,
    # Its workers are to go with it.
    start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
jar = http.cookiejar.CookieJar()
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))


def get(path, form=None, data=None):
    body = urllib.parse.urlencode(form).encode() if form is not None else data
    with browser.open(base + path, data=body, timeout=60) as answer:
        return answer.read().decode(errors="replace")


def rest(route, **fields):
    """The REST API, as the block editor uses it."""
    nonce = get("/wp-admin/admin-ajax.php?action=rest-nonce")
    request = urllib.request.Request(
        f"{base}/?rest_route=/wp/v2/{route}", json.dumps(fields).encode(),
        {"Content-Type": "application/json", "X-WP-Nonce": nonce})
    with browser.open(request, timeout=60) as answer:
        return json.load(answer)


def install():
    page = get("/wp-admin/install.php?step=2", {
        "weblog_title": "Suite", "user_name": "author", "admin_password": "long-secret-7!",
        "admin_password2": "long-secret-7!", "pw_weak": "1", "admin_email": "a@example.org",
        "Submit": "Install WordPress", "language": ""})
    assert "Success!" in page, page[-1500:]


def front_page():
    assert "Hello world!" in get("/")


def log_in():
    get("/wp-login.php")
    page = get("/wp-login.php", {"log": "author", "pwd": "long-secret-7!", "wp-submit": "Log In",
                                 "redirect_to": base + "/wp-admin/", "testcookie": "1"})
    assert "Dashboard" in page, page[-1500:]


def post():
    for n in range(20):
        number = rest("posts", title=f"Post {n} äöü 🚂", content=f"text of {n} ",
                      status="publish")["id"]
        # Redirected there at once, as a browser is.
        page = get(f"/?p={number}")
        assert f"Post {n} äöü 🚂" in page and f"text of {n}" in page, page[-1500:]


def comment():
    for n in range(20):
        try:
            page = get("/wp-comments-post.php", {"comment": f"comment number {n}, all mine",
                                                 "comment_post_ID": "1", "comment_parent": "0"})
        except urllib.error.HTTPError as error:
            raise AssertionError(re.sub(r"(?s)<style.*?</style>", "", error.read().decode())[-600:]) from error
        assert f"comment number {n}, all mine" in page, page[-1500:]


def edit():
    rest("settings", title="Renamed")
    assert "<title>Renamed" in get("/")
    number = rest("posts", title="Draft", content="first", status="publish")["id"]
    for n in range(10):
        rest(f"posts/{number}", content=f"revision {n}")
        assert f"revision {n}" in get(f"/?p={number}")


def search():
    assert "Post 7 " in get("/?s=text+of+7")
    assert "Renamed" in get("/?feed=rss2")
    assert "Post 19" in get("/wp-admin/edit.php")


try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    with open(OUT / "results", "w") as results:
        for step in (install, front_page, log_in, post, comment, edit, search):
            try:
                step()
                status = "ok"
            except Exception as error:  # noqa: BLE001: whatever it is, the step failed.
                print(f"{step.__name__}: {error!r}", file=sys.stderr)
                status = "fail"
            results.write(f"{status}\t{step.__name__}\n")
        log = OUT / "debug.log"
        errors = log.read_text() if log.exists() else ""
        print(errors, file=sys.stderr)
        quiet = "database error" not in errors
        results.write(f"{'ok' if quiet else 'fail'}\tno database errors\n")
finally:
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()
