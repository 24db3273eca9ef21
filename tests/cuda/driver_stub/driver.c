/* A stand-in for NVIDIA's driver: it runs nothing, records every call, and notes what a driver would
 * not allow or would answer by destroying what is PyTorch's.
 *
 * One line a call goes to the file that MMINT_DRIVER_RECORD names: thread, function, arguments,
 * result; a line that begins with "WRONG" tells of a mistake. A module is a list of the kernels in
 * it, a name a line, in the place of a cubin. The primary context is retained once by PyTorch,
 * which is not here, from the beginning to the end. */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    VERSION = 13000,
    MAX = 4096,
    DEPTH = 16,
    STATIC_SHARED = 48 << 10,
    MAX_DYNAMIC_SHARED = 8,
};

typedef struct {
    int alive, kind, shared;
    void *owner;
    char name[64];
    char *image;
} Object;
enum { CONTEXT = 1, STREAM, MODULE, FUNCTION };

static Object objects[MAX];
static int made, retained = 1;
static __thread Object *stack[DEPTH];
static __thread int depth, thread_number;
static int threads;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *record;
static struct {
    char name[64];
    int result;
} failure;

static void line(const char *format, ...) {
    pthread_mutex_lock(&lock);
    if (!record) {
        const char *file = getenv("MMINT_DRIVER_RECORD");
        record = fopen(file ? file : "/dev/null", "a");
        setvbuf(record, NULL, _IOLBF, 0);
    }
    if (!thread_number) thread_number = ++threads;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(record, format, arguments);
    va_end(arguments);
    fputc('\n', record);
    pthread_mutex_unlock(&lock);
}

#define WRONG(...) line("WRONG " __VA_ARGS__)

static int number(const void *object) {
    return object ? (int)((const Object *)object - objects) : -1;
}

/* Records a call, and returns its result or what `driver_fail` asked for in its place. */
#define DONE(result, format, ...)                                                 \
    do {                                                                          \
        int result_ = (result);                                                   \
        line("%d %s " format " -> %d", thread(), __func__, __VA_ARGS__, result_); \
        return result_;                                                           \
    } while (0)
#define MAY_FAIL                                \
    if (!strcmp(failure.name, __func__)) {      \
        *failure.name = 0;                      \
        DONE(failure.result, "%s", "as asked"); \
    }

static int thread(void) {
    if (!thread_number) {
        pthread_mutex_lock(&lock);
        thread_number = ++threads;
        pthread_mutex_unlock(&lock);
    }
    return thread_number;
}

static Object *new_object(int kind, void *owner, const char *name) {
    pthread_mutex_lock(&lock);
    Object *object = &objects[made++];
    pthread_mutex_unlock(&lock);
    object->alive = 1, object->kind = kind, object->owner = owner, object->shared = STATIC_SHARED;
    snprintf(object->name, sizeof object->name, "%s", name);
    return object;
}

static Object *primary(void) {
    if (!made) new_object(CONTEXT, NULL, "primary");
    return objects;
}

static int is(const void *object, int kind) {
    const Object *given = object;
    return given >= objects && given < objects + made && given->alive && given->kind == kind;
}

static Object *current(void) { return depth ? stack[depth - 1] : NULL; }

static int refused(const char *name) {
    WRONG("%s was called, which nothing here needs", name);
    return NOT_SUPPORTED;
}

#include "others.h"

/* PyTorch's CUDA runtime asks, and takes it that there is no GPU. */
int cuGetProcAddress_v2(void) { return NOT_SUPPORTED; }
int cuGetProcAddress(void) { return NOT_SUPPORTED; }

/* ---- for the tests ---- */

/* The next call of a function fails. */
void driver_fail(const char *name, int result) {
    snprintf(failure.name, sizeof failure.name, "%s", name);
    failure.result = result;
}

/* What PyTorch does when one stream waits for another. */
void driver_wait(void *waiting, void *other) {
    if ((waiting && !is(waiting, STREAM)) || (other && !is(other, STREAM)))
        WRONG("a stream waits that is no more");
    line("%d wait %d %d", thread(), number(waiting), number(other));
}

/* A stream of PyTorch's. */
void *driver_stream(void) { return new_object(STREAM, primary(), "PyTorch's"); }

__attribute__((destructor)) static void at_exit(void) {
    int left[5] = {0};
    for (int i = 0; i < made; i++)
        if (objects[i].alive && strcmp(objects[i].name, "PyTorch's")) left[objects[i].kind]++;
    line("exit retained %d, modules %d, streams %d", retained, left[MODULE], left[STREAM]);
}

/* ---- the driver ---- */

int cuInit(unsigned flags) {
    MAY_FAIL
    DONE(SUCCESS, "%u", flags);
}

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    DONE(SUCCESS, "%d", VERSION);
}

int cuGetErrorString(int error, const char **text) {
    *text = error == 2 ? "out of memory" : "an error that was asked for";
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    DONE(ordinal ? 101 : SUCCESS, "%d", ordinal);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    MAY_FAIL
    *context = primary();
    retained++;
    DONE(SUCCESS, "%d", device);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (--retained < 1) WRONG("PyTorch's context is released");
    for (int i = 0; i < made; i++)
        if (is(&objects[i], MODULE) ||
            (is(&objects[i], STREAM) && strcmp(objects[i].name, "PyTorch's")))
            WRONG("the context is released before %d of kind %d", i, objects[i].kind);
    DONE(SUCCESS, "%d", device);
}

int cuCtxDetach(void *context) {
    WRONG("cuCtxDetach of %d, PyTorch's context", number(context));
    return SUCCESS;
}

int cuCtxDestroy_v2(void *context) {
    WRONG("cuCtxDestroy of %d, PyTorch's context", number(context));
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void *context) {
    MAY_FAIL
    if (!is(context, CONTEXT) || depth == DEPTH) {
        WRONG("cuCtxPushCurrent of %d at depth %d", number(context), depth);
        return INVALID_CONTEXT;
    }
    stack[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context) {
    if (!depth) {
        WRONG("cuCtxPopCurrent of nothing");
        return INVALID_CONTEXT;
    }
    *context = stack[--depth];
    return SUCCESS;
}

int cuCtxSynchronize(void) {
    MAY_FAIL
    DONE(current() ? SUCCESS : INVALID_CONTEXT, "%s", "");
}

int cuStreamCreate(void **stream, unsigned flags) {
    MAY_FAIL
    if (!current()) WRONG("a stream without a context");
    *stream = new_object(STREAM, current(), "PyCUDA's");
    DONE(SUCCESS, "%d flags %u", number(*stream), flags);
}

int cuStreamDestroy_v2(void *stream) {
    if (!is(stream, STREAM) || !current()) WRONG("cuStreamDestroy of %d", number(stream));
    ((Object *)stream)->alive = 0;
    DONE(SUCCESS, "%d", number(stream));
}

int cuModuleLoadDataEx(void **module, const void *image, unsigned options, void *names,
                       void *values) {
    (void)options, (void)names, (void)values;
    MAY_FAIL
    if (!current()) WRONG("a module without a context");
    Object *object = new_object(MODULE, current(), "");
    object->image = strdup(image);
    *module = object;
    DONE(SUCCESS, "%d", number(object));
}

int cuModuleUnload(void *module) {
    if (!is(module, MODULE) || !current()) WRONG("cuModuleUnload of %d", number(module));
    ((Object *)module)->alive = 0;
    DONE(SUCCESS, "%d", number(module));
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    MAY_FAIL
    if (!is(module, MODULE)) WRONG("cuModuleGetFunction of %d", number(module));
    char wanted[80];
    snprintf(wanted, sizeof wanted, "\n%s\n", name);
    if (!strstr(((Object *)module)->image, wanted)) DONE(NOT_FOUND, "%s", name);
    *function = new_object(FUNCTION, module, name);
    DONE(SUCCESS, "%d %s", number(module), name);
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    MAY_FAIL
    if (!is(function, FUNCTION) || attribute != MAX_DYNAMIC_SHARED || !current())
        WRONG("cuFuncSetAttribute");
    ((Object *)function)->shared = value;
    DONE(SUCCESS, "%s %d %d", ((Object *)function)->name, attribute, value);
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
    MAY_FAIL
    Object *given = function;
    if (!current()) {
        WRONG("a launch without a context");
        return INVALID_CONTEXT;
    }
    if (!is(given, FUNCTION) || !is(given->owner, MODULE) || (stream && !is(stream, STREAM))) {
        WRONG("a launch of %d on %d", number(function), number(stream));
        return INVALID_HANDLE;
    }
    if (gx > 0x7fffffff || gy > 65535 || gz > 65535 || !(gx && gy && gz && bx && by && bz) ||
        bx * by * bz > 1024 || shared > (unsigned)given->shared || parameters || !extra)
        DONE(INVALID_VALUE, "%s %u", given->name, shared);
    /* CU_LAUNCH_PARAM_BUFFER_POINTER, pointer, CU_LAUNCH_PARAM_BUFFER_SIZE, size, END */
    const uint8_t *bytes = extra[1];
    size_t size = *(size_t *)extra[3];
    if ((intptr_t)extra[0] != 1 || (intptr_t)extra[2] != 2 || extra[4] || size > 4096)
        DONE(INVALID_VALUE, "%s", given->name);
    char text[2 * 4096 + 1] = "";
    for (size_t i = 0; i < size; i++) sprintf(text + 2 * i, "%02x", bytes[i]);
    DONE(SUCCESS, "%s %u,%u,%u %u,%u,%u %u %d %s", given->name, gx, gy, gz, bx, by, bz, shared,
         number(stream), size ? text : "-");
}
