/* The Python module: each kernel takes integers only, in the order of its argument struct, and
 * runs without the interpreter's lock. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "addition.h"
#include "conv.h"
#include "exact.h"
#include "mapping.h"
#include "norm.h"
#include "planes.h"
#include "pooling.h"
#include "sgd.h"

const level_t *level = &portable_level;

enum { MOST_ARGUMENTS = 48 };

typedef int64_t (*kernel_t)(const void *);

static PyObject *call(kernel_t kernel, size_t size, PyObject *const *values, Py_ssize_t count) {
    int64_t arguments[MOST_ARGUMENTS], result;
    const Py_ssize_t wanted = (Py_ssize_t)(size / sizeof(int64_t));
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd integers were given, %zd are accepted", count, wanted);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[i] = PyLong_AsLongLong(values[i]);
        if (arguments[i] == -1 && PyErr_Occurred()) return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    result = kernel(arguments);
    Py_END_ALLOW_THREADS;
    if (result == NO_MEMORY) return PyErr_NoMemory();
    return PyLong_FromLongLong(result);
}

#define KERNEL(name, type)                                                                      \
    static int64_t run_##name(const void *a) { return name((const type *)a); }                  \
    static PyObject *py_##name(PyObject *self, PyObject *const *values, Py_ssize_t count) {     \
        (void)self;                                                                             \
        return call(run_##name, sizeof(type), values, count);                                   \
    }                                                                                           \
    _Static_assert(sizeof(type) <= MOST_ARGUMENTS * sizeof(int64_t), "too many arguments");

KERNEL(add, add_args)
KERNEL(avg_pool2d, avg_pool2d_args)
KERNEL(avg_pool2d_grad, avg_pool2d_args)
KERNEL(planar, planar_args)
KERNEL(norm, norm_args)
KERNEL(norm_grad, norm_grad_args)
KERNEL(norm_weight_grad, norm_weight_grad_args)
KERNEL(update_running, update_running_args)
KERNEL(frozen_norm, frozen_norm_args)
KERNEL(frozen_norm_weight_grad, frozen_norm_weight_grad_args)
KERNEL(layer_norm, layer_norm_args)
KERNEL(layer_norm_grad, layer_norm_grad_args)
KERNEL(plane_sums, plane_sums_args)
KERNEL(plane_products, plane_products_args)
KERNEL(quantize, quantize_args)
KERNEL(dequantize, dequantize_args)
KERNEL(channel_sum, channel_sum_args)
KERNEL(conv2d, conv_args)
KERNEL(conv2d_input_grad, conv_args)
KERNEL(conv2d_weight_grad, conv_args)
KERNEL(matmul, matmul_args)
KERNEL(sgd_step, sgd_args)
KERNEL(relu, relu_args)
KERNEL(relu_grad, relu_args)
KERNEL(max_pool2d, max_pool2d_args)
KERNEL(max_pool2d_grad, max_pool2d_args)

/* ---- levels ---- */

#if MMINT_X86
#include <cpuid.h>

static int has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}
#endif

/* The levels this machine runs, best first. */
static int levels(const level_t **found) {
    int n = 0;
#if MMINT_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni"))
            found[n++] = &avx512vnni_level;
        if (has_avxvnni()) found[n++] = &avxvnni_level;
        found[n++] = &avx2_level;
    }
#endif
#if MMINT_NEON
    found[n++] = &neon_level;
#endif
    found[n++] = &portable_level;
    return n;
}

static PyObject *py_levels(PyObject *self, PyObject *none) {
    const level_t *found[8];
    const int n = levels(found);
    PyObject *names = PyTuple_New(n);
    (void)self, (void)none;
    for (int i = 0; names && i < n; i++)
        PyTuple_SET_ITEM(names, i, PyUnicode_FromString(found[i]->name));
    return names;
}

static PyObject *py_level(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyUnicode_FromString(level->name);
}

static PyObject *py_set_level(PyObject *self, PyObject *name) {
    const level_t *found[8];
    const char *wanted = PyUnicode_AsUTF8(name);
    (void)self;
    if (!wanted) return NULL;
    for (int n = levels(found), i = 0; i < n; i++) {
        if (!strcmp(found[i]->name, wanted)) {
            level = found[i];
            Py_RETURN_TRUE;
        }
    }
    Py_RETURN_FALSE;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD(add),
    METHOD(avg_pool2d),
    METHOD(avg_pool2d_grad),
    METHOD(planar),
    METHOD(norm),
    METHOD(norm_grad),
    METHOD(norm_weight_grad),
    METHOD(update_running),
    METHOD(frozen_norm),
    METHOD(frozen_norm_weight_grad),
    METHOD(layer_norm),
    METHOD(layer_norm_grad),
    METHOD(plane_sums),
    METHOD(plane_products),
    METHOD(quantize),
    METHOD(dequantize),
    METHOD(channel_sum),
    METHOD(conv2d),
    METHOD(conv2d_input_grad),
    METHOD(conv2d_weight_grad),
    METHOD(matmul),
    METHOD(sgd_step),
    METHOD(relu),
    METHOD(relu_grad),
    METHOD(max_pool2d),
    METHOD(max_pool2d_grad),
    {"levels", py_levels, METH_NOARGS, NULL},
    {"level", py_level, METH_NOARGS, NULL},
    {"set_level", py_set_level, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "Integer kernels; see mmint.backends.cpu.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void) {
    const level_t *found[8];
    levels(found);
    level = found[0];
    return PyModule_Create(&module);
}
