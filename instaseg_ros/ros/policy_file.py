"""Writes `config/sros2/policy.xml`: the least rights of the node, for `ros2 security`.

    python -m instaseg_ros.ros.policy_file > config/sros2/policy.xml
    python -m instaseg_ros.ros.policy_file --image /front/image_raw --namespace /robot > mine.xml

Needs no ROS.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from instaseg_ros.recordings.result_messages import NODE_NAME, TOPICS
from instaseg_ros.ros.reasons import SUFFIX

IMAGE = "/camera/image_raw"
OF_EVERY_NODE = ("/parameter_events", "/rosout")
PUBLISHED = ("/diagnostics", "~/status", *(f"~/{name}" for name in TOPICS), "~/transition_event")
SERVICES = (
    "~/change_state",
    "~/describe_parameters",
    "~/enable",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/get_state",
    "~/get_transition_graph",
    "~/get_type_description",  # from Jazzy on
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
)
HEADER = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- The least rights of the node, for `ros2 security create_permission` (docs/security.md).
     Generated: python -m instaseg_ros.ros.policy_file, which takes your topics as options. -->
"""


def subscribed(images: Sequence[str]) -> list[str]:
    """The image topics, and the camera_info beside each."""
    bases = [image.removesuffix(SUFFIX) for image in images]
    infos = [f"{base.rpartition('/')[0]}/camera_info" for base in bases]
    return sorted({*images, *infos})


def policy_file(
    images: Sequence[str] = (IMAGE,),
    namespace: str = "/",
    node: str = NODE_NAME,
    enclave: str = f"/{NODE_NAME}",
    clock: bool = False,
) -> str:
    """The text of a policy. images: absolute names of the topics that the node subscribes to, with
    the suffix of their transport. clock: it runs with use_sim_time."""
    heard = [*subscribed(images), *(["/clock"] if clock else [])]
    return "\n".join(
        (
            f'{HEADER}<policy version="0.2.0">',
            "  <enclaves>",
            f"    <enclave path={quoteattr(enclave)}>",
            "      <profiles>",
            f"        <profile ns={quoteattr(namespace)} node={quoteattr(node)}>",
            *_entries("topics", "subscribe", heard),
            *_entries("topics", "publish", (*OF_EVERY_NODE, *PUBLISHED)),
            *_entries("services", "reply", SERVICES),
            "        </profile>",
            "      </profiles>",
            "    </enclave>",
            "  </enclaves>",
            "</policy>\n",
        )
    )


def _entries(kind: str, right: str, names: Sequence[str]) -> list[str]:
    tag = kind.removesuffix("s")
    return [
        f'          <{kind} {right}="ALLOW">',
        *(f"            <{tag}>{name}</{tag}>" for name in names),
        f"          </{kind}>",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the node's policy for ros2 security.")
    parser.add_argument(
        "--image",
        metavar="TOPIC",
        type=_absolute,
        action="append",
        help=f"what the node subscribes to, with the suffix of its transport; default: {IMAGE}",
    )
    parser.add_argument("--namespace", type=_absolute, default="/", help="of the node")
    parser.add_argument("--name", default=NODE_NAME, help="of the node")
    parser.add_argument("--enclave", type=_absolute, default=f"/{NODE_NAME}", help="of its process")
    parser.add_argument("--clock", action="store_true", help="it runs with use_sim_time")
    args = parser.parse_args()
    images = args.image or [IMAGE]
    print(policy_file(images, args.namespace, args.name, args.enclave, args.clock), end="")


def _absolute(name: str) -> str:
    if not name.startswith("/") or any(letter in "<>&\"' " for letter in name):
        raise argparse.ArgumentTypeError(f"expected a name that starts with /, got {name}")
    return name


if __name__ == "__main__":
    main()
