"""The embedded S3 server: who reaches it, what it leaves behind, and how blocks get along with each other.

The session of these tests may have a server running already, and a process has one only. What a first or a last
block does is therefore tried in a process of its own, as a user's script would.
"""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import boto3
import pandas as pd
import pytest
import s3fs
from moto.s3.responses import S3Response

from superluigi.errors import ConfigError, InvalidNameError
from superluigi.testing import EmbeddedS3, embedded_s3

TIMEOUT_S = 120


def run_script(script: str, folder: Path, *options: str, **environment: str) -> str:
    """Run a script in a process of its own, with every warning an error; gives what it printed on stdout.

    Fails if it wrote anything to stderr.
    """
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script), encoding="utf-8")
    silence_luigi(folder)
    old_ways = ("ignore:datetime.datetime.utcfromtimestamp", "ignore:This process ")  # see pyproject.toml
    finished = subprocess.run(
        [sys.executable, "-W", "error", *(f"-W{way}" for way in old_ways), *options, str(file)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    return finished.stdout


def silence_luigi(folder: Path) -> None:
    """Settle a default of Luigi's that will change, or its import warns."""
    (folder / "luigi.cfg").write_text("[core]\nautoload_range: false\n")


def body(client, bucket: str, key: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def bucket_names(server: EmbeddedS3) -> set[str]:
    return {bucket["Name"] for bucket in server.client().list_buckets()["Buckets"]}


# Who reaches it


def test_boto3_s3fs_and_pandas_reach_one_bucket(bucket: str) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key="numbers.csv", Body=b"n\n1\n2\n")

    read = pd.read_csv(f"s3://{bucket}/numbers.csv")
    read.assign(n=read["n"] * 10).to_csv(f"s3://{bucket}/tens.csv", index=False)

    assert read["n"].tolist() == [1, 2]
    assert body(boto3.client("s3"), bucket, "tens.csv") == b"n\n10\n20\n"
    assert sorted(s3fs.S3FileSystem().ls(bucket)) == [f"{bucket}/numbers.csv", f"{bucket}/tens.csv"]


def test_a_large_object_comes_back_whole(bucket: str) -> None:
    large = os.urandom(17 << 20)

    boto3.client("s3").upload_fileobj(io.BytesIO(large), bucket, "large.bin")

    assert s3fs.S3FileSystem().cat_file(f"{bucket}/large.bin") == large


def test_a_program_that_the_block_starts_reaches_it(bucket: str, tmp_path: Path) -> None:
    run_script(f"import pandas; pandas.DataFrame({{'n': [1]}}).to_csv('s3://{bucket}/a.csv', index=False)", tmp_path)

    assert body(boto3.client("s3"), bucket, "a.csv") == b"n\n1\n"


def put_from_a_worker(server: EmbeddedS3, bucket: str, key: str) -> None:
    content = pd.read_csv(f"s3://{bucket}/in.csv").to_csv(index=False).encode()
    server.client().put_object(Bucket=bucket, Key=key, Body=content)
    with embedded_s3("made-by-a-worker") as joined:
        assert joined.endpoint_url == server.endpoint_url


def join(process) -> int:
    process.start()
    process.join(TIMEOUT_S)
    return process.exitcode


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_forked_workers_reach_it_and_join_it(s3) -> None:
    s3.put("in.csv", b"n\n1\n")
    pd.read_csv(f"s3://{s3.bucket}/in.csv")  # so that the child inherits open connections
    context = multiprocessing.get_context("fork")

    codes = [join(context.Process(target=put_from_a_worker, args=(s3.server, s3.bucket, f"{n}.csv"))) for n in range(3)]

    assert codes == [0, 0, 0]
    assert s3.keys() == ["0.csv", "1.csv", "2.csv", "in.csv"]
    assert s3.get("2.csv") == b"n\n1\n"
    assert "made-by-a-worker" not in bucket_names(s3.server)


def test_the_server_pickles_and_its_client_ignores_the_environment(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.txt", b"a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")

    copy = pickle.loads(pickle.dumps(s3.server))

    assert copy.endpoint_url == s3.server.endpoint_url
    assert body(copy.client(), s3.bucket, "a.txt") == b"a"
    assert repr(copy) == f"EmbeddedS3({s3.endpoint_url})"


def test_clients_may_be_made_by_many_threads_at_once(s3) -> None:
    threads = [threading.Thread(target=s3.put, args=(f"{number}.txt",)) for number in range(16)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(s3.keys()) == 16


def test_a_proxy_is_not_asked_for_it(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    script = """
        import os
        import boto3, pandas as pd
        from superluigi.testing import embedded_s3

        with embedded_s3("shops"):
            boto3.client("s3").put_object(Bucket="shops", Key="a.csv", Body=b"n")
            assert list(pd.read_csv("s3://shops/a.csv").columns) == ["n"]
            print(os.environ["no_proxy"], os.environ["NO_PROXY"])
        print(os.environ["no_proxy"], os.environ.get("NO_PROXY"))
    """

    printed = run_script(script, tmp_path, HTTP_PROXY=proxy, http_proxy=proxy, all_proxy=proxy, no_proxy="intranet")

    assert printed.splitlines() == ["intranet,127.0.0.1 intranet,127.0.0.1", "intranet None"]


def test_of_conditional_puts_at_once_one_wins(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    client = s3.client()
    client.put_bucket_versioning(Bucket=s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    second_came = threading.Barrier(2)
    computed = S3Response._get_checksum  # what moto does between looking at the condition and writing
    answers = []

    def computed_slowly(*arguments) -> tuple[str, str | None]:
        with contextlib.suppress(threading.BrokenBarrierError):
            second_came.wait(0.5)
        return computed(*arguments)

    def put(number: int) -> None:
        try:
            client.put_object(Bucket=s3.bucket, Key="one", Body=b"%d" % number, IfNoneMatch="*")
            answers.append("written")
        except client.exceptions.ClientError as error:
            answers.append(error.response["Error"]["Code"])

    monkeypatch.setattr(S3Response, "_get_checksum", computed_slowly)
    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["PreconditionFailed"] * 15 + ["written"]
    assert len(client.list_object_versions(Bucket=s3.bucket)["Versions"]) == 1


# What it leaves behind


def test_the_environment_is_afterwards_exactly_as_before(tmp_path: Path) -> None:
    own = {
        "AWS_PROFILE": "mine",
        "AWS_SESSION_TOKEN": "my-token",
        "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
        "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws-credentials"),
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_CA_BUNDLE": str(tmp_path / "no-such-bundle.pem"),
    }
    (tmp_path / "aws-config").write_text("[profile mine]\nregion = eu-central-1\nendpoint_url = https://example.com\n")
    (tmp_path / "aws-credentials").write_text("[mine]\naws_access_key_id = my-key\naws_secret_access_key = secret\n")
    script = """
        import os
        import boto3, pandas as pd
        from superluigi.testing import embedded_s3

        before = dict(os.environ)
        session = boto3._get_default_session()
        assert session.get_credentials().access_key == "my-key"

        try:
            with embedded_s3("shops"):
                boto3.client("s3").put_object(Bucket="shops", Key="a.csv", Body=b"n")
                assert list(pd.read_csv("s3://shops/a.csv").columns) == ["n"]
                assert boto3.client("s3").meta.region_name == "us-east-1"
                os.environ["AWS_PROFILE"] = "set-inside"
                os.environ["BOTO_CONFIG"] = "set-inside"
                1 / 0
        except ZeroDivisionError:
            print("raised")

        assert dict(os.environ) == before
        assert boto3.DEFAULT_SESSION is session
        client = boto3.client("s3", verify=False)
        print(client.meta.region_name, client.meta.endpoint_url)
    """

    printed = run_script(script, tmp_path, **own)

    assert printed.splitlines() == ["raised", "eu-central-1 https://s3.eu-central-1.amazonaws.com"]


def test_two_servers_after_each_other_do_not_mix(tmp_path: Path) -> None:
    script = """
        import socket, threading
        import boto3, pandas as pd
        from urllib.parse import urlsplit
        from superluigi.testing import embedded_s3

        for number in range(2):
            with embedded_s3("shops") as server:
                listed = boto3.client("s3").list_objects_v2(Bucket="shops")
                assert listed["KeyCount"] == 0, listed
                boto3.client("s3").put_object(Bucket="shops", Key="a.csv", Body=b"n\\n%d\\n" % number)
                print(pd.read_csv("s3://shops/a.csv")["n"].tolist())
            address = urlsplit(server.endpoint_url)
            try:
                socket.create_connection((address.hostname, address.port), timeout=10)
            except ConnectionRefusedError:
                print("stopped")
        print([thread.name for thread in threading.enumerate() if thread.name.startswith("Thread-")])
    """

    printed = run_script(script, tmp_path)

    assert printed.splitlines() == ["[0]", "stopped", "[1]", "stopped", "[]"]


def test_requests_are_not_logged_and_the_log_is_put_back(tmp_path: Path) -> None:
    script = """
        import logging, sys
        logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s")
        for name in ("botocore", "boto3", "urllib3", "asyncio", "s3transfer", "luigi-interface"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from superluigi.testing import embedded_s3

        with embedded_s3("shops") as server:
            server.client().list_objects_v2(Bucket="shops")
            logging.getLogger("werkzeug").error("inside")
        logging.getLogger("werkzeug").info("outside")
    """

    printed = run_script(script, tmp_path)

    assert printed.splitlines() == ["werkzeug", "werkzeug"]


def test_a_block_that_cannot_create_its_bucket_leaves_nothing_behind(tmp_path: Path) -> None:
    script = """
        import os, threading
        from superluigi.errors import InvalidNameError
        from superluigi.testing import embedded_s3

        before = dict(os.environ)
        try:
            with embedded_s3("fine", "Not_Fine"):
                print("entered")
        except InvalidNameError as error:
            print(error)
        assert dict(os.environ) == before
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(5)  # one that has answered a request may be about to end
        print(threading.active_count())
    """

    printed = run_script(script, tmp_path)

    refusal, thread_count = printed.splitlines()
    assert refusal.startswith("'Not_Fine' cannot be the name of a new bucket. Use 3 to 63 lower-case letters, ")
    assert thread_count == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_that_leaves_the_block_keeps_what_the_parent_has(tmp_path: Path) -> None:
    script = """
        import os, sys
        from superluigi.testing import embedded_s3

        with embedded_s3("shops") as outer, embedded_s3("inner"):
            outer.client().put_object(Bucket="inner", Key="kept", Body=b"")
            child = os.fork()
            if child == 0:
                print(sorted(bucket["Name"] for bucket in outer.client().list_buckets()["Buckets"]), flush=True)
            else:
                assert os.waitpid(child, 0)[1] == 0
                print([found["Key"] for found in outer.client().list_objects_v2(Bucket="inner")["Contents"]])
        assert "AWS_ENDPOINT_URL" not in os.environ
    """

    printed = run_script(script, tmp_path)

    assert printed.splitlines() == ["['inner', 'shops']", "['kept']"]


# How blocks get along


def test_a_block_inside_another_joins_it_and_takes_only_its_own_buckets_away(s3) -> None:
    s3.put("kept.txt", b"kept")

    with embedded_s3("guest-bucket", s3.bucket) as guest:
        guest.create_bucket("guest-bucket-2")
        guest.client().put_bucket_versioning(Bucket="guest-bucket", VersioningConfiguration={"Status": "Enabled"})
        for text in (b"1", b"2"):
            guest.client().put_object(Bucket="guest-bucket", Key="twice", Body=text)
        guest.client().put_object(Bucket="guest-bucket", Key="gone", Body=b"")
        guest.client().delete_object(Bucket="guest-bucket", Key="gone")
        while_open = bucket_names(s3.server)

    assert guest.endpoint_url == s3.endpoint_url
    assert while_open >= {"guest-bucket", "guest-bucket-2", s3.bucket}
    assert bucket_names(s3.server) == while_open - {"guest-bucket", "guest-bucket-2"}
    assert s3.get("kept.txt") == b"kept"


def test_a_block_may_delete_its_bucket_itself(s3_server: EmbeddedS3) -> None:
    with embedded_s3("short-lived") as server:
        server.client().delete_bucket(Bucket="short-lived")

    assert "short-lived" not in bucket_names(s3_server)


def test_creating_a_bucket_that_is_there_keeps_what_it_holds(s3) -> None:
    s3.put("a.txt", b"a")

    s3.server.create_bucket(s3.bucket)

    assert s3.get("a.txt") == b"a"


def test_blocks_of_two_threads_may_be_left_in_any_order(s3_server: EmbeddedS3) -> None:
    before = dict(os.environ)
    entered, may_leave = threading.Event(), threading.Event()
    seen = []

    def stay_longer() -> None:
        with embedded_s3("longer"):
            entered.set()
            may_leave.wait(TIMEOUT_S)
            seen.append(os.environ.get("AWS_ENDPOINT_URL"))
            boto3.session.Session().client("s3").put_object(Bucket="longer", Key="a", Body=b"")

    with embedded_s3("shorter"):
        thread = threading.Thread(target=stay_longer)
        thread.start()
        entered.wait(TIMEOUT_S)
    remaining = bucket_names(s3_server) & {"shorter", "longer"}
    may_leave.set()
    thread.join(TIMEOUT_S)

    assert remaining == {"longer"}
    assert seen == [s3_server.endpoint_url]
    assert dict(os.environ) == before


def test_a_port_can_be_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"""
        from superluigi.testing import embedded_s3
        for _ in range(2):
            with embedded_s3(port={port}) as server, embedded_s3(port={port}) as joined:
                print(server.endpoint_url, joined.endpoint_url)
    """

    printed = run_script(script, tmp_path)

    assert printed.split() == [f"http://127.0.0.1:{port}"] * 4


@pytest.mark.parametrize(
    ("port", "problem"),
    [
        pytest.param("taken", "cannot be used for the embedded S3 server: ", id="taken"),
        pytest.param(70_000, "is no port: they go from 1 to 65535.", id="too-high"),
        pytest.param(-1, "is no port: they go from 1 to 65535.", id="negative"),
    ],
)
def test_a_port_that_cannot_be_used_is_an_error_and_not_a_wait(port: int | str, problem: str, tmp_path: Path) -> None:
    script = """
        import os
        from superluigi.errors import ConfigError
        from superluigi.testing import embedded_s3
        before = dict(os.environ)
        try:
            with embedded_s3(port=PORT):
                pass
        except ConfigError as error:
            print(error)
        assert dict(os.environ) == before
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1] if port == "taken" else port

        printed = run_script(script.replace("PORT", str(number)), tmp_path)

    assert printed.startswith(f"port={number} {problem}")
    assert printed.endswith("Leave it out to get a free one.\n")


def test_another_port_than_the_one_that_runs_is_refused(s3_server: EmbeddedS3) -> None:
    other = 1 if not s3_server.endpoint_url.endswith(":1") else 2
    before = dict(os.environ)

    with pytest.raises(ConfigError, match=rf"^port={other} was asked for, but this process has .* Leave the port out"):
        embedded_s3(port=other).__enter__()

    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["", "ab", "Upper", "under_score", "a" * 64, "two..dots", "-hyphen"], ids=repr)
def test_a_name_that_s3_does_not_allow_is_refused(name: str, s3_server: EmbeddedS3) -> None:
    with pytest.raises(InvalidNameError, match="cannot be the name of a new bucket") as caught:
        s3_server.create_bucket(name)

    assert caught.value.name == name


# What it needs


def test_importing_the_module_imports_neither_moto_nor_boto3(tmp_path: Path) -> None:
    script = """
        import json, sys
        import superluigi.testing
        heavy = {"boto3", "botocore", "moto", "flask", "werkzeug", "s3fs", "pandas"}
        print(json.dumps(sorted(heavy & set(sys.modules))))
    """

    assert json.loads(run_script(script, tmp_path)) == []


@pytest.mark.parametrize("module", ["moto", "flask"])
def test_without_moto_the_error_says_what_to_install(module: str, tmp_path: Path) -> None:
    script = f"""
        import os, sys
        sys.modules[{module!r}] = None  # as if it were not installed
        from superluigi.errors import MissingExtraError
        from superluigi.testing import embedded_s3
        before = dict(os.environ)
        try:
            with embedded_s3():
                pass
        except MissingExtraError as error:
            print(error)
        assert dict(os.environ) == before
    """

    printed = run_script(script, tmp_path, "-W", "ignore:When using MotoServer:UserWarning")

    assert f"{module!r} is not installed" in printed
    assert "pip install 'superluigi[testing]'" in printed


def test_without_pytest_the_server_works_all_the_same(tmp_path: Path) -> None:
    script = """
        import sys
        sys.modules["pytest"] = None  # as if it were not installed
        from superluigi import testing
        with testing.embedded_s3("shops") as server:
            print(testing.__all__)
    """

    assert run_script(script, tmp_path) == "['EmbeddedS3', 'embedded_s3']\n"


def test_the_fixture_gives_every_test_of_a_user_an_empty_server(tmp_path: Path) -> None:
    conftest = 'from superluigi.testing import embedded_s3\n\npytest_plugins = ["superluigi.testing"]\n'
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_user.py").write_text(
        textwrap.dedent("""
            import os
            import boto3
            import pytest

            @pytest.mark.parametrize("number", [1, 2])
            def test_each(number, embedded_s3_server):
                assert boto3.client("s3").list_buckets()["Buckets"] == []
                embedded_s3_server.create_bucket("shops")
                boto3.client("s3").put_object(Bucket="shops", Key="a", Body=b"")

            def test_nothing_is_left():
                assert "AWS_ENDPOINT_URL" not in os.environ
        """)
    )
    silence_luigi(tmp_path)

    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert "3 passed" in finished.stdout, finished.stdout + finished.stderr


def test_the_log_filter_of_a_block_goes_with_it(s3_server: EmbeddedS3) -> None:
    before = list(logging.getLogger("werkzeug").filters)

    with embedded_s3():
        pass

    assert logging.getLogger("werkzeug").filters == before
