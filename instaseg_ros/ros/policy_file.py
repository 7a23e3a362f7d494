"""Writes `config/sros2/policy.xml`: the least rights of the node, for `ros2 security`.

    python -m instaseg_ros.ros.policy_file > config/sros2/policy.xml
    python -m instaseg_ros.ros.policy_file --image /front/image_raw --namespace /robot > mine.xml

Needs no ROS.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from instaseg_ros.recordings.result_messages import DEBUG_TOPICS, NODE_NAME, TOPICS, below
from instaseg_ros.ros.input import SUFFIX

IMAGE = "/camera/image_raw"
NOTHING: Mapping[str, Sequence[str]] = {"subscribe": (), "publish": ()}
OF_EVERY_NODE = ("/parameter_events", "/rosout")
OF_THE_NODE = ("/diagnostics", "~/status", "~/transition_event")
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
    cameras: Sequence[str] = ("",),
    more: Mapping[str, Sequence[str]] = NOTHING,
) -> str:
    """The text of a policy.

    images: absolute names of the topics that the node subscribes to, with the suffix of their
    transport. cameras: the parameter `cameras`. more: further topics that it may `subscribe` to and
    `publish`.
    """
    heard = [*subscribed(images), *more["subscribe"]]
    names = [*TOPICS, *DEBUG_TOPICS]
    results = [f"~/{below(camera, name)}" for camera in cameras for name in names]
    said = [*OF_EVERY_NODE, *OF_THE_NODE, *results, *more["publish"]]
    return "\n".join(
        (
            f'{HEADER}<policy version="0.2.0">',
            "  <enclaves>",
            f"    <enclave path={quoteattr(enclave)}>",
            "      <profiles>",
            f"        <profile ns={quoteattr(namespace)} node={quoteattr(node)}>",
            *_entries("topics", "subscribe", heard),
            *_entries("topics", "publish", said),
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
    parser.add_argument(
        "--camera", metavar="NAME", action="append", help="one of the parameter `cameras`"
    )
    parser.add_argument(
        "--subscribe",
        metavar="TOPIC",
        type=_absolute,
        action="append",
        default=[],
        help="further topics, such as those of depth, and /clock with use_sim_time",
    )
    parser.add_argument(
        "--publish", metavar="TOPIC", type=_name, action="append", default=[], help="likewise"
    )
    args = parser.parse_args()
    more = {"subscribe": args.subscribe, "publish": args.publish}
    images, cameras = args.image or [IMAGE], args.camera or [""]
    print(policy_file(images, args.namespace, args.name, args.enclave, cameras, more), end="")


def _absolute(name: str) -> str:
    if not name.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected a name that starts with /, got {name}")
    return _name(name)


def _name(name: str) -> str:
    if not re.fullmatch(r"~?/[\w/]*", name):
        raise argparse.ArgumentTypeError(f"expected a name of ROS, got {name}")
    return name


if __name__ == "__main__":
    main()
