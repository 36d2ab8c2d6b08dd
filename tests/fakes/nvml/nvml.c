/* A libnvidia-ml.so.1 that reads what it shall answer from the file that $FAKE_NVML names, anew at every call, so that a
 * test can make GPUs come, go, fail and hang under a running process. The file has lines `key=value`:
 *
 *   count=2  driver=550.163.01  cuda=12040
 *   snapshot=1                      GPUs are counted at init, as by a library that does not see hot-plugged ones
 *   error.nvmlInitWithFlags=9       this function answers with this NVML error code
 *   hang.nvmlDeviceGetCount_v2=1    this function does not return while the line is there
 *   gpu.0.uuid=GPU-...  gpu.0.name=...  gpu.0.memory=BYTES  gpu.0.major=9  gpu.0.minor=0  gpu.0.number=0  gpu.0.bus=...
 *   gpu.0.error=15  gpu.0.hang=1    every function that is asked about this GPU
 *   gpu.0.error.FUNCTION=3          one function that is asked about this GPU
 *   log=/path                       one line per call is appended there: the function and the index of the GPU
 *
 * The file is to be replaced by rename. Compiled with -DOLD it lacks nvmlDeviceGetMinorNumber.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3 };
enum { LINE = 512 };

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned long long total, free, used;
} memory_info;

static int initialised;
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

/* A handle is the index plus one. */
static int device_call(const char *function, void *handle) {
    char key[LINE];
    int index = (int)((long)handle - 1);
    record(function, index);
    if (!initialised) return UNINITIALIZED;
    if (index < 0 || index >= count()) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "gpu.%d.hang", index);
    hang(key);
    snprintf(key, sizeof key, "gpu.%d.error.%s", index, function);
    int code = (int)number(key, SUCCESS);
    if (code) return code;
    snprintf(key, sizeof key, "gpu.%d.error", index);
    return (int)number(key, SUCCESS);
}

static int field(void *handle, const char *name, char *value) {
    char key[LINE];
    snprintf(key, sizeof key, "gpu.%ld.%s", (long)handle - 1, name);
    return lookup(key, value);
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

int nvmlDeviceGetPciInfo_v3(void *handle, pci_info *info) {
    int code = device_call("nvmlDeviceGetPciInfo_v3", handle);
    memset(info, 0, sizeof *info);
    return code ? code : text(handle, "bus", info->bus_id, sizeof info->bus_id);
}
