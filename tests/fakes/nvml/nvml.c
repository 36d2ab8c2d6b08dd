/* A libnvidia-ml.so.1 that reads what it shall answer from the file that $FAKE_NVML names, anew at every call, so that a
 * test can make GPUs come, go, fail and hang under a running process. The file has lines `key=value`:
 *
 *   count=2  driver=550.163.01  cuda=12040
 *   snapshot=1                      GPUs are counted at init, as by a library that does not see hot-plugged ones
 *   error.nvmlInitWithFlags=9       this function answers with this NVML error code
 *   hang.nvmlDeviceGetCount_v2=1    this function does not return while the line is there
 *   gpu.0.uuid=GPU-...  gpu.0.name=...  gpu.0.memory=BYTES  gpu.0.major=9  gpu.0.minor=0  gpu.0.number=0  gpu.0.bus=...
 *   gpu.0.mode=0                    the compute mode; none: not supported
 *   gpu.0.kept=/path                the file that a mode which was set is kept in, as in the GPU: it comes before `mode`
 *   gpu.0.processes=12,34           pids with a compute context;  gpu.0.clients=34  those that are clients of MPS
 *   process.12=/usr/bin/python a.py what is told of a process
 *   gpu.0.error=15  gpu.0.hang=1    every function that is asked about this GPU
 *   gpu.0.error.FUNCTION=3  gpu.0.hang.FUNCTION=1   one function that is asked about this GPU
 *   gpu.0.mig=1                     MIG is enabled (0: it is not; none: not supported)
 *   gpu.0.mig.2.uuid=MIG-...        the MIG device at this position; .name .memory .gi .ci .slices .computing and the errors
 *                                   and hangs of functions as those of a GPU
 *   gpu.0.mig.2.goes.FUNCTION=1     this MIG device is destroyed when the function is asked about it
 *   gpu.0.once.FUNCTION=/path       while the file is there the function answers with the NVML error code in it, and removes it
 *   gpu.0.events=0                  it does not report XIDs
 *   events=/path                    XIDs, as lines INDEX XID [GPU_INSTANCE COMPUTE_INSTANCE [DEVICE]], DEVICE being the
 *                                   number of the handle that the event bears (0: none); each is taken once, by a set
 *                                   that was there before it, if its GPU was registered
 *   anonymous=1                     events name their GPU by another handle of it
 *   ways.0.1=40                     the common ancestor of two GPUs, the lower index first
 *   gpu.0.links=4                   how many NVLinks it has (none: not supported)
 *   gpu.0.link.2=00000000:1B:00.0   where this one leads: a bus id, or `switch`; none: it is down; `absent`: it is not there
 *   gpu.0.cluster=b1028956-...      the NVLink fabric that it is attached to (none: not supported), with .clique=1 and, where
 *                                   they are others than those of a GPU that is set up, .fabric=3 (its state) and .status=0
 *   log=/path                       one line per call is appended there: the function and the index of the GPU
 *
 * The file is to be replaced by rename. Compiled with -DOLD the library lacks what old ones do: nvmlDeviceGetMinorNumber,
 * the clients of MPS, MIG, events, what is at the end of an NVLink, and fabrics.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10, UNKNOWN = 999
};
enum { LINE = 512, GPUS = 64, MIG_DEVICES = 7, XID_EVENTS = 8, PARENT = 0x100, ANONYMOUS = 0x100000, SWITCH = 2 };

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned long long total, free, used;
} memory_info;

typedef struct {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
} process_info;

typedef struct {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} event_data;

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, slices, computing;
    unsigned long long memory;
} attributes;

typedef struct {
    unsigned char cluster[16];
    unsigned status, clique;
    unsigned char state;
} fabric_info;

typedef struct {
    long read;
    int freed, undefined, used;
    char registered[GPUS];
} event_set;

static int initialised, sets;
static char gone[GPUS][MIG_DEVICES];
static long counted;

static int lookup(const char *key, char *value) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE];
    size_t length = strlen(key);
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static long number(const char *key, long otherwise) {
    char value[LINE];
    return lookup(key, value) ? atol(value) : otherwise;
}

static void record(const char *function, int index) {
    char path[LINE];
    if (!lookup("log", path)) return;
    FILE *file = fopen(path, "a");
    if (!file) return;
    fprintf(file, "%s %d\n", function, index);
    fclose(file);
}

static void hang(const char *key) {
    while (number(key, 0)) usleep(5000);
}

static int system_call_(const char *function) {
    char key[LINE];
    record(function, -1);
    snprintf(key, sizeof key, "hang.%s", function);
    hang(key);
    snprintf(key, sizeof key, "error.%s", function);
    return (int)number(key, SUCCESS);
}

static long count(void) { return number("snapshot", 0) ? counted : number("count", 0); }

/* The handle of a GPU is its index plus one, that of a MIG device has its position plus one above that. */
static int index_of(void *handle) { return (int)((long)handle & (PARENT - 1)) - 1; }

static void name_of(void *handle, char *name) {
    long position = ((long)handle & (ANONYMOUS - 1)) / PARENT;
    if (position) snprintf(name, LINE, "gpu.%d.mig.%ld", index_of(handle), position - 1);
    else snprintf(name, LINE, "gpu.%d", index_of(handle));
}

static int field(void *handle, const char *name, char *value) {
    char prefix[LINE], key[2 * LINE];
    name_of(handle, prefix);
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    return lookup(key, value);
}

static int once(const char *name, const char *function) {
    char key[2 * LINE], path[LINE];
    int code = SUCCESS;
    snprintf(key, sizeof key, "%s.once.%s", name, function);
    FILE *file = lookup(key, path) ? fopen(path, "r") : NULL;
    if (!file) return SUCCESS;
    if (fscanf(file, "%d", &code) != 1) code = UNKNOWN;
    fclose(file);
    unlink(path);
    return code;
}

static int device_call(const char *function, void *handle) {
    char name[LINE], key[2 * LINE];
    int index = index_of(handle);
    record(function, index);
    if (!initialised) return UNINITIALIZED;
    if (index < 0 || index >= count()) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "gpu.%d.hang", index);
    hang(key);
    name_of(handle, name);
    snprintf(key, sizeof key, "%s.hang.%s", name, function);
    hang(key);
    snprintf(key, sizeof key, "%s.goes.%s", name, function);
    if (number(key, 0)) {
        gone[index][((long)handle & (ANONYMOUS - 1)) / PARENT - 1] = 1;
        return NOT_FOUND;
    }
    snprintf(key, sizeof key, "%s.error.%s", name, function);
    int code = (int)number(key, SUCCESS);
    if (!code) code = once(name, function);
    if (code) return code;
    snprintf(key, sizeof key, "gpu.%d.error", index);
    return (int)number(key, SUCCESS);
}

static int text(void *handle, const char *name, char *buffer, unsigned length) {
    char value[LINE];
    if (!field(handle, name, value)) return NOT_SUPPORTED;
    snprintf(buffer, length, "%s", value);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = system_call_("nvmlInitWithFlags");
    if (code) return code;
    initialised++;
    counted = number("count", 0);
    return SUCCESS;
}

int nvmlShutdown(void) {
    int code = system_call_("nvmlShutdown");
    if (!initialised) return UNINITIALIZED;
    if (sets) record("nvmlShutdown with event sets", -1);
    initialised--;
    return code;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the fake";
}

int nvmlSystemGetDriverVersion(char *buffer, unsigned length) {
    char value[LINE];
    int code = initialised ? system_call_("nvmlSystemGetDriverVersion") : UNINITIALIZED;
    if (code) return code;
    if (!lookup("driver", value)) return NOT_SUPPORTED;
    snprintf(buffer, length, "%s", value);
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    int code = initialised ? system_call_("nvmlSystemGetCudaDriverVersion") : UNINITIALIZED;
    *version = (int)number("cuda", 0);
    return code ? code : *version ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *value) {
    int code = initialised ? system_call_("nvmlDeviceGetCount_v2") : UNINITIALIZED;
    *value = (unsigned)count();
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    void *candidate = (void *)((long)index + 1);
    int code = device_call("nvmlDeviceGetHandleByIndex_v2", candidate);
    if (!code) *handle = candidate;
    return code;
}

int nvmlDeviceGetUUID(void *handle, char *buffer, unsigned length) {
    int code = device_call("nvmlDeviceGetUUID", handle);
    return code ? code : text(handle, "uuid", buffer, length);
}

int nvmlDeviceGetName(void *handle, char *buffer, unsigned length) {
    int code = device_call("nvmlDeviceGetName", handle);
    return code ? code : text(handle, "name", buffer, length);
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_info *memory) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetMemoryInfo", handle);
    if (code) return code;
    if (!field(handle, "memory", value)) return NOT_SUPPORTED;
    memory->total = memory->free = strtoull(value, NULL, 10);
    memory->used = 0;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetCudaComputeCapability", handle);
    if (code) return code;
    if (!field(handle, "major", value)) return NOT_SUPPORTED;
    *major = atoi(value);
    *minor = field(handle, "minor", value) ? atoi(value) : 0;
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetMinorNumber", handle);
    if (code) return code;
    if (!field(handle, "number", value)) return NOT_SUPPORTED;
    *minor = (unsigned)atoi(value);
    return SUCCESS;
}
#endif

#ifndef OLD
int nvmlDeviceGetGpuFabricInfo(void *handle, fabric_info *info) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetGpuFabricInfo", handle);
    unsigned byte, place = 0;
    if (code) return code;
    if (!field(handle, "cluster", value)) return NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    for (const char *digit = value; *digit && place < sizeof info->cluster; digit += 2) {
        if (*digit == '-') digit++;
        if (sscanf(digit, "%2x", &byte) != 1) return UNKNOWN;
        info->cluster[place++] = (unsigned char)byte;
    }
    info->clique = field(handle, "clique", value) ? (unsigned)strtoul(value, NULL, 10) : 0;
    info->state = field(handle, "fabric", value) ? (unsigned char)atoi(value) : 3;
    info->status = field(handle, "status", value) ? (unsigned)atoi(value) : SUCCESS;
    return SUCCESS;
}
#endif

int nvmlDeviceGetPciInfo_v3(void *handle, pci_info *info) {
    int code = device_call("nvmlDeviceGetPciInfo_v3", handle);
    memset(info, 0, sizeof *info);
    return code ? code : text(handle, "bus", info->bus_id, sizeof info->bus_id);
}

int nvmlDeviceGetComputeMode(void *handle, unsigned *mode) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetComputeMode", handle);
    if (code) return code;
    if (!field(handle, "mode", value)) return NOT_SUPPORTED;
    *mode = (unsigned)atoi(value);
    FILE *kept = field(handle, "kept", value) ? fopen(value, "r") : NULL;
    if (!kept) return SUCCESS;
    code = fscanf(kept, "%u", mode) == 1 ? SUCCESS : UNKNOWN;
    fclose(kept);
    return code;
}

int nvmlDeviceSetComputeMode(void *handle, unsigned mode) {
    char value[LINE];
    int code = device_call("nvmlDeviceSetComputeMode", handle);
    if (code) return code;
    FILE *kept = field(handle, "kept", value) ? fopen(value, "w") : NULL;
    if (!kept) return NOT_SUPPORTED;
    fprintf(kept, "%u\n", mode);
    fclose(kept);
    return SUCCESS;
}

static int running(const char *function, void *handle, const char *name, unsigned *room, process_info *found) {
    char value[LINE] = "";
    unsigned number = 0;
    int code = device_call(function, handle);
    if (code) return code;
    field(handle, name, value);
    for (char *pid = strtok(value, ","); pid; pid = strtok(NULL, ",")) {
        if (found && number < *room) found[number] = (process_info){.pid = (unsigned)atoi(pid)};
        number++;
    }
    code = number > (found ? *room : 0) ? INSUFFICIENT_SIZE : SUCCESS;
    *room = number;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *room, process_info *found) {
    return running("nvmlDeviceGetComputeRunningProcesses_v2", handle, "processes", room, found);
}

#ifndef OLD
int nvmlDeviceGetMPSComputeRunningProcesses_v2(void *handle, unsigned *room, process_info *found) {
    return running("nvmlDeviceGetMPSComputeRunningProcesses_v2", handle, "clients", room, found);
}
#endif

int nvmlSystemGetProcessName(unsigned pid, char *buffer, unsigned length) {
    char key[LINE], value[LINE];
    int code = initialised ? system_call_("nvmlSystemGetProcessName") : UNINITIALIZED;
    if (code) return code;
    snprintf(key, sizeof key, "process.%u", pid);
    if (!lookup(key, value)) return NOT_FOUND;
    snprintf(buffer, length, "%s", value);
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetMigMode", handle);
    if (code) return code;
    if (!field(handle, "mig", value)) return NOT_SUPPORTED;
    *current = *pending = (unsigned)atoi(value);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *most) {
    *most = MIG_DEVICES;
    return device_call("nvmlDeviceGetMaxMigDeviceCount", handle);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned position, void **device) {
    char value[LINE];
    void *candidate = (void *)((long)handle + (long)(position + 1) * PARENT);
    int code = device_call("nvmlDeviceGetMigDeviceHandleByIndex", handle);
    if (code) return code;
    if (gone[index_of(handle)][position] || !field(candidate, "uuid", value)) return NOT_FOUND;
    *device = candidate;
    return SUCCESS;
}

static int number_of(const char *function, void *handle, const char *name, unsigned *found) {
    char value[LINE];
    int code = device_call(function, handle);
    if (code) return code;
    if (!field(handle, name, value)) return NOT_SUPPORTED;
    *found = (unsigned)atoi(value);
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    return number_of("nvmlDeviceGetGpuInstanceId", handle, "gi", id);
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    return number_of("nvmlDeviceGetComputeInstanceId", handle, "ci", id);
}

int nvmlDeviceGetAttributes_v2(void *handle, attributes *found) {
    char value[LINE];
    memset(found, 0, sizeof *found);
    int code = number_of("nvmlDeviceGetAttributes_v2", handle, "slices", &found->slices);
    if (code) return code;
    found->computing = field(handle, "computing", value) ? (unsigned)atoi(value) : found->slices;
    found->memory = field(handle, "memory", value) ? strtoull(value, NULL, 10) >> 20 : 0;
    found->multiprocessors = field(handle, "multiprocessors", value) ? (unsigned)atoi(value) : 0;
    found->copy_engines = field(handle, "copy", value) ? (unsigned)atoi(value) : 0;
    found->decoders = field(handle, "decoder", value) ? (unsigned)atoi(value) : 0;
    found->encoders = field(handle, "encoder", value) ? (unsigned)atoi(value) : 0;
    found->jpegs = field(handle, "jpeg", value) ? (unsigned)atoi(value) : 0;
    found->ofas = field(handle, "ofa", value) ? (unsigned)atoi(value) : 0;
    return SUCCESS;
}

static FILE *events(void) {
    char path[LINE];
    return lookup("events", path) ? fopen(path, "r") : NULL;
}

int nvmlEventSetCreate(event_set **set) {
    int code = initialised ? system_call_("nvmlEventSetCreate") : UNINITIALIZED;
    if (code) return code;
    *set = calloc(1, sizeof **set);
    FILE *file = events();
    if (file) {
        fseek(file, 0, SEEK_END);
        (*set)->read = ftell(file);
        fclose(file);
    }
    __sync_fetch_and_add(&sets, 1);
    return SUCCESS;
}

/* Tells of whoever uses a set that is not to be used, or in which somebody is already. */
static void enter(event_set *set, const char *function) {
    char misuse[LINE];
    const char *how = set->freed ? "freed" : set->undefined ? "undefined" : NULL;
    snprintf(misuse, sizeof misuse, "%s for a set that is %s", function, how ? how : "in use");
    if (__sync_fetch_and_add(&set->used, 1) > 0 || how) record(misuse, -1);
}

static int leave(event_set *set, int code) {
    __sync_fetch_and_sub(&set->used, 1);
    return code;
}

int nvmlEventSetFree(event_set *set) {
    int code = system_call_("nvmlEventSetFree");
    set->undefined = 0;
    enter(set, "nvmlEventSetFree");
    set->freed = 1; /* and kept, to tell of who uses it all the same */
    __sync_fetch_and_sub(&sets, 1);
    return leave(set, code);
}

int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *types) {
    char value[LINE];
    int code = device_call("nvmlDeviceGetSupportedEventTypes", handle);
    *types = field(handle, "events", value) && !atoi(value) ? 1 : XID_EVENTS | 1;
    return code;
}

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, event_set *set) {
    enter(set, "nvmlDeviceRegisterEvents");
    usleep(1000);
    int code = device_call("nvmlDeviceRegisterEvents", handle);
    if (code == UNKNOWN) set->undefined = 1;
    if (!code && types & XID_EVENTS) set->registered[index_of(handle)] = 1;
    return leave(set, code);
}

static int next_event(event_set *set, event_data *event) {
    char line[LINE];
    int index, found = 0;
    FILE *file = events();
    if (!file) return 0;
    fseek(file, set->read, SEEK_SET);
    while (!found && fgets(line, sizeof line, file) && strchr(line, '\n')) {
        set->read = ftell(file);
        event->type = XID_EVENTS;
        event->gpu_instance = event->compute_instance = 0xFFFFFFFF;
        long device = -1;
        found = sscanf(line, "%d %llu %u %u %ld", &index, &event->data, &event->gpu_instance, &event->compute_instance,
                       &device) >= 2 && set->registered[index];
        if (device < 0) device = (long)index + 1 + (number("anonymous", 0) ? ANONYMOUS : 0);
        event->device = (void *)device;
    }
    fclose(file);
    return found;
}

/* A set with a GPU in it that is lost is not waited for. */
static int error_in(event_set *set) {
    char key[LINE];
    int code = SUCCESS;
    for (int index = 0; index < GPUS && !code; index++) {
        snprintf(key, sizeof key, "gpu.%d.error", index);
        if (set->registered[index]) code = (int)number(key, SUCCESS);
    }
    return code;
}

int nvmlEventSetWait_v2(event_set *set, event_data *event, unsigned milliseconds) {
    int code = initialised ? system_call_("nvmlEventSetWait_v2") : UNINITIALIZED;
    enter(set, "nvmlEventSetWait_v2");
    if (!code) code = error_in(set);
    for (unsigned waited = 0; !code && !next_event(set, event); waited += 5) {
        if (waited >= milliseconds) code = TIMEOUT;
        else usleep(5000);
    }
    return leave(set, code);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, unsigned *type) {
    char name[LINE], value[LINE];
    int code = device_call("nvmlDeviceGetNvLinkRemoteDeviceType", handle);
    if (code) return code;
    snprintf(name, sizeof name, "link.%u", link);
    if (!field(handle, name, value)) return NOT_SUPPORTED;
    *type = strcmp(value, "switch") ? 0 : SWITCH;
    return SUCCESS;
}
#endif

int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, unsigned *level) {
    char key[LINE], value[LINE];
    int code = device_call("nvmlDeviceGetTopologyCommonAncestor", one);
    if (code) return code;
    snprintf(key, sizeof key, "ways.%d.%d", index_of(one < other ? one : other), index_of(one < other ? other : one));
    if (!lookup(key, value)) return NOT_SUPPORTED;
    *level = (unsigned)atoi(value);
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *active) {
    char name[LINE], value[LINE];
    int code = device_call("nvmlDeviceGetNvLinkState", handle);
    if (code) return code;
    if (!field(handle, "links", value)) return NOT_SUPPORTED;
    if (link >= (unsigned)atoi(value)) return INVALID_ARGUMENT;
    snprintf(name, sizeof name, "link.%u", link);
    *active = (unsigned)field(handle, name, value);
    return *active && !strcmp(value, "absent") ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, pci_info *info) {
    char name[LINE];
    int code = device_call("nvmlDeviceGetNvLinkRemotePciInfo_v2", handle);
    memset(info, 0, sizeof *info);
    snprintf(name, sizeof name, "link.%u", link);
    return code ? code : text(handle, name, info->bus_id, sizeof info->bus_id);
}
