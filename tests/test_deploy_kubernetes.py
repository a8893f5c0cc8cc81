"""``deploy/kubernetes``: vale según los esquemas, y los ficheros, la imagen y el servidor dicen lo mismo.

En un cluster no se ha probado.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from comunicacion_tcp.cli import serving
from comunicacion_tcp.limits import DEFAULT_LIMITS
from comunicacion_tcp.supervision import END_PATIENCE

from .support.deployed import check_options
from .support.examples import ROOT
from .support.first_process import end, first_process

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
FILES = KUSTOMIZATION["resources"]
RESOURCES = {name: yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")) for name in FILES}
# La primera con la pausa de preStop que hace Kubernetes (sleep), y la última que conoce lo que valida.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
DEPLOYMENT = RESOURCES["deployment.yaml"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


def option(name: str) -> str:
    """El valor que el Deployment da a una opción del servidor."""
    (value,) = (text.partition("=")[2] for text in CONTAINER["args"] if text.startswith(f"--{name}="))
    return str(value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_each_file_is_what_its_schema_says(name: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], version, strict=True)


def test_the_validator_does_reject_something() -> None:
    wrong = json.loads(json.dumps(DEPLOYMENT))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_of_the_folder_is_used() -> None:
    used = {*FILES, "kustomization.yaml", "README.md"}
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert {path.name for path in FOLDER.iterdir()} == used | {*generated["files"]}


def test_what_kustomize_makes_is_valid_and_complete() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("falta kubectl, que no está en Debian: lo mismo, sin él, en las pruebas de al lado")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, timeout=60, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    for resource in made:
        kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)
    assert {resource["kind"] for resource in made} == {
        *(resource["kind"] for resource in RESOURCES.values()),
        "ConfigMap",
    }
    (config,) = (resource for resource in made if resource["kind"] == "ConfigMap")
    (deployment,) = (resource for resource in made if resource["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    assert pod["containers"][0]["image"] == "registro.example/comunicacion-tcp:0.1.0"


def test_nothing_says_in_what_namespace() -> None:
    for resource in RESOURCES.values():
        assert "namespace" not in resource["metadata"]
    assert "namespace" not in KUSTOMIZATION


def test_who_looks_for_the_pods_finds_them() -> None:
    selectors: list[dict[str, str]] = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        RESOURCES["service.yaml"]["spec"]["selector"],
        RESOURCES["disruptions.yaml"]["spec"]["selector"]["matchLabels"],
        RESOURCES["network.yaml"]["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in POD["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= LABELS
    target = RESOURCES["autoscaler.yaml"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", DEPLOYMENT["metadata"]["name"])
    # Lo que decide el autoscaler no lo decide también el Deployment.
    assert "replicas" not in DEPLOYMENT["spec"]


def test_the_ports_are_those_of_the_server() -> None:
    assert PORTS["mensajes"] == int(option("puerto"))
    assert PORTS["metricas"] == int(option("metricas").rpartition(":")[2])
    assert PORTS["mensajes"] == serving.PORT
    named = [port["targetPort"] for port in RESOURCES["service.yaml"]["spec"]["ports"]]
    for rule in RESOURCES["network.yaml"]["spec"]["ingress"]:
        named += [port["port"] for port in rule["ports"]]
    assert {*named} == {*PORTS}
    notes = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == PORTS["metricas"]


def test_the_probes_ask_the_metrics_port() -> None:
    paths = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in paths.values()} == {"metricas"}
    assert [probe["path"] for probe in paths.values()] == ["/salud", "/salud", "/lista"]


def test_there_is_time_to_end_well() -> None:
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = DEFAULT_LIMITS.drain + END_PATIENCE
    assert POD["terminationGracePeriodSeconds"] > pause + drain
    # Y la pausa da para que se note que ya no hay que mandarle a nadie.
    assert pause >= CONTAINER["readinessProbe"]["periodSeconds"]


def test_a_pod_retired_while_it_imports_the_service_ends_at_once(tmp_path: Path) -> None:
    # Al proceso 1, una señal que no atiende no le hace nada; uno solo no atiende ninguna mientras importa.
    (tmp_path / "lento.py").write_text("import time\n\nprint('importando', flush=True)\ntime.sleep(600)\n")
    tmp_path.chmod(0o755)
    options = [f"--procesos={option('procesos')}", "--servicio=lento:responder"]
    with first_process(tmp_path, *options, until="importando") as (server, pid):
        assert end(server, pid, signal.SIGTERM) == 0


def test_those_who_do_not_read_do_not_fill_the_memory() -> None:
    assert option("max-guardado").endswith("M")
    assert CONTAINER["resources"]["limits"]["memory"] == f"{4 * int(option('max-guardado')[:-1])}Mi"


def test_the_pod_is_of_the_restricted_profile() -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    ours = CONTAINER["securityContext"]
    assert ours == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(POD.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "initContainers"))
    assert {kind for volume in POD["volumes"] for kind in volume if kind != "name"} <= {"configMap", "secret"}


def test_the_user_is_that_of_the_image() -> None:
    image = (ROOT / "deploy" / "container" / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (\d+):(\d+)$", image, re.MULTILINE) == [
        (str(POD["securityContext"]["runAsUser"]), str(POD["securityContext"]["runAsGroup"]))
    ]


def test_the_options_exist_and_the_files_are_where_they_say() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    (file,) = generated["files"]
    assert check_options(CONTAINER["args"], FOLDER / file).registro == "json"  # lo dice la configuración
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    places = {mount["mountPath"]: volumes[mount["name"]] for mount in CONTAINER["volumeMounts"]}
    folder, _, name = option("configuracion").rpartition("/")
    assert (places[folder]["configMap"]["name"], name) == (generated["name"], file)
    # También lo que la configuración enseña comentado.
    text = (FOLDER / file).read_text(encoding="utf-8")
    lines: dict[str, Any] = dict(re.findall(r"^#?([a-z-]+) = (.*)$", text, re.MULTILINE))
    assert {"registro", "tls-cert", "tls-clave", "proxy-de"} <= {*lines}
    check_options([f"--{name}={value}" for name, value in lines.items()])
    assert places[lines["tls-cert"].rpartition("/")[0]]["secret"]["optional"] is True
