"""The shipped policy is what the code writes, in the form that sros2 reads; SECURITY.md names files
that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from instaseg_ros.recordings.result_messages import DEBUG_TOPICS, NODE_NAME, TOPICS
from instaseg_ros.ros.policy_file import policy_file

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "config" / "sros2" / "policy.xml"


def names(profile: ElementTree.Element, kind: str, right: str) -> list[str]:
    """What has this right; there is no other kind of rule."""
    groups = [group for group in profile.findall(kind) if group.attrib == {right: "ALLOW"}]
    return [str(one.text) for group in groups for one in group]


def test_the_shipped_policy_is_generated() -> None:
    assert POLICY.read_text(encoding="utf-8") == policy_file()


def test_the_policy_has_the_form_that_sros2_reads() -> None:
    policy = ElementTree.fromstring(policy_file())
    assert (policy.tag, policy.attrib) == ("policy", {"version": "0.2.0"})
    assert [child.tag for child in policy] == ["enclaves"]
    (enclave,) = policy[0]
    assert enclave.attrib == {"path": f"/{NODE_NAME}"}
    ((profile,),) = enclave
    assert profile.attrib == {"ns": "/", "node": NODE_NAME}
    assert names(profile, "topics", "subscribe") == ["/camera/camera_info", "/camera/image_raw"]
    published = names(profile, "topics", "publish")
    assert {f"~/{name}" for name in (*TOPICS, *DEBUG_TOPICS)} < set(published)
    assert "~/set_parameters" in names(profile, "services", "reply")
    assert not names(profile, "services", "request")
    assert len(profile) == 3


def test_it_is_written_for_the_topics_that_one_has() -> None:
    words = ["--image", "/front/image/compressed", "--image", "/rear/image"]
    words += ["--namespace", "/robot", "--name", "eyes", "--enclave", "/robot/eyes"]
    words += ["--camera", "front", "--camera", "rear", "--subscribe", "/clock"]
    words += ["--publish", "~/front/points"]
    command = [sys.executable, "-m", "instaseg_ros.ros.policy_file", *words]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    profile = ElementTree.fromstring(text)[0][0][0][0]
    assert profile.attrib == {"ns": "/robot", "node": "eyes"}
    assert names(profile, "topics", "subscribe") == [
        "/front/camera_info",
        "/front/image/compressed",
        "/rear/camera_info",
        "/rear/image",
        "/clock",
    ]
    published = names(profile, "topics", "publish")
    assert {"~/front/labels", "~/rear/overlay", "~/status", "~/front/points"} < set(published)
    assert "~/rear/debug/seed" in published
    assert "~/labels" not in published
    refused = subprocess.run(
        [*command, "--image", "front<"], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "expected a name that starts with /" in refused.stderr


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/security.md"])
def test_what_it_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:instaseg_ros|test|config|docs|tools)/[\w./-]+)`", text)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
