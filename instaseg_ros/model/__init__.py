"""The networks, in torch; heads and strides are shared by every runtime."""
