"""Where parameters are: host memory, the link, the device's arena."""
