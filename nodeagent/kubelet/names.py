"""Names and limits of the kubelet's APIs: what is on the wire beside the messages.

In one place, since generic handlers and plain channel calls have no generated stub that would know them.
"""

from __future__ import annotations

from typing import Final

API_VERSION: Final = "v1beta1"
HEALTHY: Final = "Healthy"
UNHEALTHY: Final = "Unhealthy"

KUBELET_SOCKET: Final = "kubelet.sock"
"""Base name of the kubelet's socket, in the device plugins' directory as in that of PodResources."""

CHECKPOINT: Final = "kubelet_internal_checkpoint"
"""Base name of the device manager's checkpoint, in the device plugins' directory."""

REGISTRATION_SERVICE: Final = "v1beta1.Registration"
REGISTER: Final = f"/{REGISTRATION_SERVICE}/Register"

DEVICE_PLUGIN_SERVICE: Final = "v1beta1.DevicePlugin"
GET_OPTIONS: Final = f"/{DEVICE_PLUGIN_SERVICE}/GetDevicePluginOptions"
LIST_AND_WATCH: Final = f"/{DEVICE_PLUGIN_SERVICE}/ListAndWatch"
GET_PREFERRED_ALLOCATION: Final = f"/{DEVICE_PLUGIN_SERVICE}/GetPreferredAllocation"
ALLOCATE: Final = f"/{DEVICE_PLUGIN_SERVICE}/Allocate"
PRE_START_CONTAINER: Final = f"/{DEVICE_PLUGIN_SERVICE}/PreStartContainer"

POD_RESOURCES_SERVICE: Final = "v1.PodResourcesLister"
LIST_POD_RESOURCES: Final = f"/{POD_RESOURCES_SERVICE}/List"
GET_POD_RESOURCES: Final = f"/{POD_RESOURCES_SERVICE}/Get"
GET_ALLOCATABLE: Final = f"/{POD_RESOURCES_SERVICE}/GetAllocatableResources"

MAX_LIST_BYTES: Final = 4 * 1024 * 1024
"""Largest ListAndWatch message that the kubelet receives."""

MAX_POD_RESOURCES_BYTES: Final = 64 * 1024 * 1024
"""What we receive at most from PodResources: 80,000 ids are 5.5 MB, more than gRPC's default of 4 MiB."""

MAX_SOCKET_PATH: Final = 107
"""Longest path of a unix socket in bytes (`sun_path` without its closing zero)."""
