"""The ROS 2 node. Only this package imports rclpy or message packages."""
