"""The commands and the server: messages, the address, this machine only."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from attlas.dashboards.commands import dashboard, report
from attlas.dashboards.serve import make_server
from attlas.schemas.errors import InvalidValueError, StoreNotFoundError


def test_the_dashboard_prints_its_address_and_answers_on_localhost_only(folder):
    attlas = Path(sys.executable).parent / "attlas"
    command = [attlas, "dashboard", folder, "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            url, port = re.fullmatch(r"dashboard at (http://localhost:(\d+)) \(Ctrl-C ends it\)\n", line).groups()
            with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
                assert b"<title>attlas</title>" in answer.read()
            others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)} - {"127.0.0.1", "::1"}
            for address in others:
                with pytest.raises(ConnectionRefusedError), socket.create_connection((address, int(port)), timeout=1):
                    pass
        finally:
            server.terminate()


def test_a_taken_port_and_a_wrong_one_are_refused(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidValueError, match=f"port {port} is taken; choose another by --port"):
            make_server([folder], port=port)
    with pytest.raises(InvalidValueError, match="port 70000 is out of range"):
        make_server([folder], port=70000)


def test_no_store_is_one_message(tmp_path):
    with pytest.raises(StoreNotFoundError, match="no store to show:\n.*nothing is there"):
        make_server([tmp_path / "none"])


def test_other_origins_may_not_talk_to_the_server(folder):
    url, server = make_server([folder], port=0)
    try:
        port = url.rsplit(":", 1)[1]
        assert server._tornado.websocket_origins == {f"localhost:{port}", f"127.0.0.1:{port}"}
    finally:
        server.stop()


def test_the_report_command_writes_a_file(folder, tmp_path):
    out = tmp_path / "r.html"
    done = CliRunner().invoke(report, [str(folder / "full.zarr"), "--out", str(out), "--runs", "1"])
    assert done.exit_code == 0, done.output
    assert done.output == f"wrote {out}\n"
    assert "full: word maps" in out.read_text()
    quiet = CliRunner().invoke(report, [str(folder / "full.zarr"), "--out", str(out), "--runs", "1", "--quiet"])
    assert quiet.output == ""


def test_the_report_command_refuses_what_is_not_there(tmp_path):
    done = CliRunner().invoke(report, [str(tmp_path / "none"), "--out", str(tmp_path / "r.html")])
    assert isinstance(done.exception, StoreNotFoundError)
    assert not (tmp_path / "r.html").exists()


def test_help_is_quick_to_read():
    for command, option in ((dashboard, "--port"), (report, "--scores")):
        assert option in CliRunner().invoke(command, ["--help"]).output
