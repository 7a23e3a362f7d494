"""Publishes the node's outputs: every message has the header of its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Header

from instaseg_ros.config import Config
from instaseg_ros.frames import Frame, Instances, Locations
from instaseg_ros.rays import sight
from instaseg_ros.recordings import result_messages
from instaseg_ros.ros import qos
from instaseg_ros.ros.camera import below
from instaseg_ros.ros.messages import MESSAGES
from instaseg_ros.ros.seldom import SeldomGroup
from instaseg_ros.visualization import overlay


class ResultPublishers:
    """Lifecycle publishers of all `result_messages.TOPICS`, with depth of its DEPTH_TOPICS, and of
    the wanted DEBUG_TOPICS, below the node's own name and, if it has one, the camera's.

    debug: names of panels, without `debug/`. events: the group of the publishers' events.
    """

    def __init__(
        self,
        node: LifecycleNode,
        class_names: Sequence[str],
        camera: str = "",
        with_depth: bool = False,
        debug: Sequence[str] = (),
    ) -> None:
        self._node = node
        self._debug = debug
        self._class_names = class_names
        self._publishers: dict[str, LifecyclePublisher] = {}
        self.events = SeldomGroup()
        topics = result_messages.TOPICS
        if with_depth:
            topics = {**topics, **result_messages.DEPTH_TOPICS}
        pictures = result_messages.DEBUG_TOPICS
        topics = {**topics, **{f"debug/{name}": pictures[f"debug/{name}"] for name in debug}}
        try:
            for name, topic in topics.items():
                self._publishers[name] = node.create_lifecycle_publisher(
                    getattr(MESSAGES, topic.type.rpartition("/")[2]),
                    f"~/{below(camera, name)}",
                    qos.LATCHED if topic.latched else qos.RESULTS,
                    callback_group=self.events,
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
        except Exception:  # a bad override: publishers made before must not stay
            self.close()
            raise

    def publish_labels(self, header: Header, instances: Instances) -> None:
        """Publish the label image, and what its values mean."""
        labels = result_messages.labels_message(MESSAGES, header, instances.labels)
        self._publishers["labels"].publish(labels)
        detections = result_messages.detections_message(
            MESSAGES, header, instances, self._class_names
        )
        self._publishers["detections"].publish(detections)

    def publish_pictures(
        self, header: Header, frame: Frame, instances: Instances, config: Config
    ) -> None:
        """Publish the labels compressed and what people look at, each only while somebody
        subscribes."""
        if self._has_subscribers("labels/compressed"):
            self._publishers["labels/compressed"].publish(
                result_messages.compressed_labels_message(MESSAGES, header, instances.labels)
            )
        if self._has_subscribers("overlay"):
            alpha, with_ids = config.node.overlay_alpha, config.tracking.enabled
            picture = overlay(frame, instances, self._class_names, alpha, with_ids)
            self._publishers["overlay"].publish(
                result_messages.overlay_message(MESSAGES, header, picture)
            )

    def publish_markers(
        self,
        header: Header,
        frame: Frame,
        instances: Instances,
        locations: Locations | None = None,
    ) -> None:
        """Publish outlines and names, at their distance where it is known, while somebody
        subscribes."""
        if self._has_subscribers("markers"):
            markers = result_messages.markers_message(
                MESSAGES, header, instances, self._class_names, frame, locations
            )
            self._publishers["markers"].publish(markers)

    def publish_locations(
        self, header: Header, frame: Frame, instances: Instances, locations: Locations
    ) -> None:
        """Publish where objects are, and the points of each while somebody subscribes."""
        detections = result_messages.detections_3d_message(
            MESSAGES, header, instances, locations, self._class_names
        )
        self._publishers["detections_3d"].publish(detections)
        if self._has_subscribers("points"):
            from instaseg_ros.localization import object_points

            assert frame.depth is not None
            points = object_points(instances, locations, frame.depth, sight(frame))
            self._publishers["points"].publish(
                result_messages.points_message(MESSAGES, header, *points)
            )

    def debug_wanted(self) -> list[str]:
        """The panels to which somebody subscribes."""
        return [name for name in self._debug if self._has_subscribers(f"debug/{name}")]

    def publish_debug(self, header: Header, name: str, picture: NDArray[np.uint8]) -> None:
        """Publish a panel, (H, W, 3) uint8 RGB."""
        message = result_messages.overlay_message(MESSAGES, header, picture)
        self._publishers[f"debug/{name}"].publish(message)

    def publish_label_info(self) -> None:
        """Publish the class names; latched, so once is enough."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._publishers["label_info"].publish(
            result_messages.label_info_message(MESSAGES, header, self._class_names)
        )

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _has_subscribers(self, name: str) -> bool:
        return self._publishers[name].get_subscription_count() > 0
