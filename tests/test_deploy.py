"""deploy/ and the code agree: settings, ports, commands, files and names that one file has of another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from duologue import cli, settings
from tests.support.process import ROOT

DEPLOY: Final = ROOT / "deploy"
FILES: Final = sorted(path.name for path in DEPLOY.iterdir())
SETTINGS: Final = {settings.variable(field.name) for field in settings.fields()}
PORT: Final = settings.Settings().port

COMPOSE: Final = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
NODES: Final = {name: each for name, each in COMPOSE["services"].items() if "build" in each}
MANIFESTS: Final = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def manifest(kind: str, name: str = "duologue") -> Any:
    (found,) = (each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod(kind: str, name: str = "duologue") -> tuple[dict[str, Any], dict[str, str]]:
    """A workload's one container, and its pods' labels."""
    template = manifest(kind, name)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return container, template["metadata"]["labels"]


def load(environment: dict[str, str]) -> settings.Settings:
    """As `duologue serve` would; fails for a name or a value that it doesn't take."""
    return settings.load({}, environment, None).settings


@pytest.mark.parametrize("name", FILES)
def test_every_setting_is_one(name: str) -> None:
    named = set(re.findall(r"\bDUOLOGUE_[A-Z_]+\b", (DEPLOY / name).read_text()))
    assert named <= SETTINGS


def test_the_nodes_of_compose_are_those_that_its_proxy_knows() -> None:
    assert {name: load(each["environment"]).node for name, each in NODES.items()} == {name: name for name in NODES}
    proxy = COMPOSE["services"]["proxy"]
    assert set(proxy["depends_on"]) == set(NODES)
    text = (DEPLOY / "nginx.conf").read_text()
    (changes,) = re.findall(r"sed (.*?) /etc", proxy["command"][-1], re.DOTALL)
    for _, old, new, _ in (part.split("/") for part in shlex.split(changes) if part != "-e"):
        assert old in text
        text = text.replace(old, new)
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    assert "127.0.0.1" not in text
    assert set(re.findall(r"server (\S+:\d+)", text)) == {f"{name}:{PORT}" for name in NODES}
    assert f"listen {PORT};" in text
    assert [f"127.0.0.1:{PORT}:{PORT}"] == proxy["ports"]
    address = proxy["networks"]["default"]["ipv4_address"]
    assert network["subnet"] == re.sub(r"\d+$", "0/24", address)
    for each in NODES.values():
        loaded = load(each["environment"])
        assert loaded.trusted_proxy == (address,)
        assert re.fullmatch(r"postgresql://\S+@postgres/duologue", loaded.database)
        assert loaded.bus == "nats://nats:4222"
        assert set(each["depends_on"]) <= set(COMPOSE["services"])
        assert (DEPLOY / each["build"]["context"] / each["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    for volume in proxy["volumes"]:
        assert (DEPLOY / volume.split(":")[0]).is_file()


def test_the_image_runs_a_command_that_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for words in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() for each in words.split())
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert yaml.safe_load(entry) == ["duologue"]
    assert '\nduologue = "duologue.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert cli._parser().parse_args(yaml.safe_load(command))
    (variables,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    loaded = load(dict(each.split("=", 1) for each in variables.split()) | {"DUOLOGUE_ALLOW_GUESTS": "true"})
    assert (loaded.host, loaded.port) == ("0.0.0.0", PORT)
    assert f"EXPOSE {PORT}" in text
    assert f"http://127.0.0.1:{PORT}/health" in text


def test_what_kubernetes_is_told_fits_together() -> None:
    container, labels = pod("StatefulSet")
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    given |= {
        "DUOLOGUE_NODE": "duologue-0",
        "DUOLOGUE_DATABASE": "postgresql://x/y",
        "DUOLOGUE_BUS": "nats://nats:4222",
    }
    assert load(given).port == PORT
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == {"http": PORT}
    proxy, proxy_labels = pod("Deployment", "duologue-proxy")
    assert [volume["name"] for volume in proxy["volumeMounts"]] == ["configuration"]
    assert manifest("StatefulSet")["spec"]["serviceName"] == "duologue-nodes"
    for name, selected in (("duologue-any", labels), ("duologue-nodes", labels), ("duologue", proxy_labels)):
        service = manifest("Service", name)
        assert service["spec"]["selector"] == selected
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    (configuration,) = manifest("ConfigMap", "duologue-proxy")["data"].values()
    assert f"listen {proxy['ports'][0]['containerPort']};" in configuration
    # Names that the proxy asks for, and their port: those of the Services, not of the pods.
    for name in ("duologue-any", "duologue-nodes"):
        assert name in configuration
        assert manifest("Service", name)["spec"]["ports"][0]["port"] == PORT
    assert f"cluster.local:{PORT};" in configuration
    assert set(re.findall(r"\$\{(\w+)\}", configuration)) == {"NGINX_LOCAL_RESOLVERS", "NAMESPACE"}
    (rule,) = manifest("Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == manifest("Service")["metadata"]["name"]
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_the_proxies_say_the_same_of_requests() -> None:
    """deploy/nginx.conf, and the copy of it in kubernetes.yaml."""
    (copy,) = manifest("ConfigMap", "duologue-proxy")["data"].values()
    said, copied = (
        set(re.findall(r"^\s*((?:proxy_(?!pass)|client_)\w+ .*;)$", text, re.MULTILINE))
        for text in ((DEPLOY / "nginx.conf").read_text(), copy)
    )
    assert said == copied
    assert len(said) > 8


def test_the_pages_name_files_of_deploy_that_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *map(DEPLOY.joinpath, FILES)]
    named = {each for page in pages for each in re.findall(r"\bdeploy/([\w.]+\w)", Path(page).read_text())}
    assert {"nginx.conf", "Caddyfile"} <= named
    assert named <= set(FILES)
