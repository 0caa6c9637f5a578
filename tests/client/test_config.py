"""The settings of a running server, from the command line and from Python."""


async def test_a_setting_is_changed_shown_and_taken_back(cli, client):
    """Values are JSON, or text where they are none."""
    done = await cli("config", "set", "task.max_task_retries=5", "logging.level=warning", "--reason", "quieter")
    lines = ["task.max_task_retries\truntime\t\t5", "logging.level\truntime\t\twarning", "version 1"]
    assert (done.code, done.out.splitlines()) == (0, lines)
    assert (await cli("config", "get", "task.max_task_retries")).out == "5\n"
    assert (await cli("config", "get", "logging.level", "--json")).json["source"] == "runtime"
    assert (await client.config_history())["versions"][0]["reason"] == "quieter"
    whole = (await cli("config", "set", "task.max_task_retries=null", "--json")).json
    assert whole["settings"]["task.max_task_retries"]["value"] == 3
    assert whole == await client.config()


async def test_all_settings_are_listed(cli, client):
    """A line for each, and the version."""
    done = await cli("config", "get")
    *lines, last = done.out.splitlines()
    assert (done.code, last) == (0, "version 0")
    assert [line.split("\t")[0] for line in lines] == list((await client.config())["settings"])
    assert "server.port\toption\trestart\t0" in lines
    assert "security.api_key\tdefault\trestart\tnull" in lines


async def test_the_history_is_shown_and_rolled_back(cli, client):
    """0 is before the first change."""
    await client.configure({"task.max_task_retries": 5}, "more")
    await client.configure({"task.max_task_retries": 6})
    lines = (await cli("config", "history")).out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["2", "1"]
    assert lines[1].split("\t")[2:] == ["anonymous", "more", "task.max_task_retries: 3 -> 5"]
    assert len((await cli("config", "history", "--limit", "1", "--json")).json["versions"]) == 1
    assert (await cli("config", "rollback", "1", "--json")).json["settings"]["task.max_task_retries"]["value"] == 5
    done = await cli("config", "rollback", "0", "--reason", "enough")
    assert (done.code, done.out.splitlines()[-1]) == (0, "version 4")
    assert (await client.config_history(limit=1))["versions"][0]["reason"] == "enough"


async def test_what_is_refused_is_said(cli, client):
    """Every fault by its name, and exit code 1; what cannot be sent is wrong usage."""
    done = await cli("config", "set", "task.max_task_retries=five", "server.port=1")
    assert done.code == 1
    assert "changes.task.max_task_retries: must be an integer" in done.err
    assert "changes.server.port: takes a restart" in done.err
    assert (await cli("config", "rollback", "9")).code == 1
    for arguments in (["set"], ["set", "task.max_task_retries"], ["get", "task.nothing"], ["rollback", "-1"]):
        assert (await cli("config", *arguments)).code == 2
    assert (await client.config())["version"] == 0


async def test_limits_from_python(client):
    """Each by its name."""
    assert (await client.limits())["prompt_characters"] == 10_000
