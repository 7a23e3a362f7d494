"""The networks, in torch; heads and strides that every runtime shares."""
