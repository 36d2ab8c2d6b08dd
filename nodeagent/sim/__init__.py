"""A node without a GPU or a cluster: the stand-in kubelet, and a mounted ConfigMap, as `demo` and the tests use them.

It follows what was read in the kubelet's source and seen of a real one, its traps included: a plugin that gets along
with a stand-in which is kinder than the real kubelet has proved nothing.
"""
