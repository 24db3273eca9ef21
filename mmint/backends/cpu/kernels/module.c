/* The Python module: each kernel takes the arguments of its list (arguments.h) by name, tensors (or
 * None) and integers, and runs without the interpreter's lock. `arguments` is a dictionary of those
 * names. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "arguments.h"
#include "levels/level.h"
#include "status.h"

enum { MOST_ARGUMENTS = 48 };

typedef struct {
    const char *name;
    int is_pointer;
} argument_t;

typedef struct {
    const char *name;
    const argument_t *arguments;
    Py_ssize_t count;
    int64_t (*run)(const void *);
} kernel_t;

/* ---- one argument after another, in any order ---- */

static Py_ssize_t place_of(const kernel_t *kernel, PyObject *name, Py_ssize_t guess) {
    for (Py_ssize_t i = 0; i < kernel->count; i++) {
        const Py_ssize_t at = (guess + i) % kernel->count;
        if (!PyUnicode_CompareWithASCIIString(name, kernel->arguments[at].name)) return at;
    }
    PyErr_Format(PyExc_TypeError, "%s has no argument '%U'", kernel->name, name);
    return -1;
}

static PyObject *data_ptr; /* the name of a tensor's method */

static int read_argument(const kernel_t *kernel, Py_ssize_t at, PyObject *value, int64_t *word) {
    const argument_t *argument = &kernel->arguments[at];
    const char *wanted = argument->is_pointer ? "a tensor or None" : "an integer";
    *word = 0;
    if (!argument->is_pointer) {
        *word = PyLong_AsLongLong(value);
    } else if (value != Py_None) {
        PyObject *address = PyObject_CallMethodNoArgs(value, data_ptr);
        if (address) *word = PyLong_AsLongLong(address);
        Py_XDECREF(address);
    }
    if (!PyErr_Occurred()) return 0;
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "%s takes %s as '%s', not %s", kernel->name, wanted,
                 argument->name, Py_TYPE(value)->tp_name);
    return -1;
}

static int read_arguments(const kernel_t *kernel, PyObject *const *values, Py_ssize_t positional,
                          PyObject *names, int64_t *words) {
    char given[MOST_ARGUMENTS] = {0};
    if (positional) {
        PyErr_Format(PyExc_TypeError, "%s takes its arguments by name", kernel->name);
        return -1;
    }
    const Py_ssize_t count = names ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const Py_ssize_t at = place_of(kernel, PyTuple_GET_ITEM(names, i), i);
        if (at < 0 || read_argument(kernel, at, values[i], &words[at])) return -1;
        given[at] = 1;
    }
    for (Py_ssize_t i = 0; i < kernel->count; i++) {
        if (given[i]) continue;
        PyErr_Format(PyExc_TypeError, "%s was not given its argument '%s'", kernel->name,
                     kernel->arguments[i].name);
        return -1;
    }
    return 0;
}

static PyObject *call(const kernel_t *kernel, PyObject *const *values, Py_ssize_t positional,
                      PyObject *names) {
    int64_t words[MOST_ARGUMENTS], result;
    if (read_arguments(kernel, values, positional, names, words)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = kernel->run(words);
    Py_END_ALLOW_THREADS;
    if (result == NO_MEMORY) return PyErr_NoMemory();
    return PyLong_FromLongLong(result);
}

/* ---- the kernels, from their lists ---- */

_Static_assert(sizeof(void *) == sizeof(int64_t), "arguments are words of 64 bits");

#define POINTER_NAME(type, name) {#name, 1},
#define INTEGER_NAME(name) {#name, 0},
#define ALIKE(kernel, other)                                                                     \
    static const argument_t arguments_of_##kernel[] = {                                          \
        ARGUMENTS_##other(POINTER_NAME, INTEGER_NAME)};                                          \
    _Static_assert(sizeof(other##_args) <= MOST_ARGUMENTS * sizeof(int64_t),                     \
                   "too many arguments");                                                        \
    static int64_t run_##kernel(const void *words) {                                             \
        other##_args a;                                                                          \
        memcpy(&a, words, sizeof a);                                                             \
        return kernel(&a);                                                                       \
    }                                                                                            \
    static const kernel_t kernel_##kernel = {#kernel, arguments_of_##kernel,                     \
                                             sizeof(other##_args) / sizeof(int64_t),             \
                                             run_##kernel};                                      \
    static PyObject *py_##kernel(PyObject *self, PyObject *const *values, Py_ssize_t positional, \
                                 PyObject *names) {                                              \
        (void)self;                                                                              \
        return call(&kernel_##kernel, values, positional, names);                                \
    }
#define KERNEL(kernel) ALIKE(kernel, kernel)
KERNELS(KERNEL, ALIKE)
#undef KERNEL
#undef ALIKE

#define ALIKE(kernel, other) &kernel_##kernel,
#define KERNEL(kernel) ALIKE(kernel, kernel)
static const kernel_t *const kernels[] = {KERNELS(KERNEL, ALIKE)};
#undef ALIKE

/* {kernel: names of its arguments} */
static PyObject *arguments(void) {
    PyObject *all = PyDict_New();
    for (size_t k = 0; all && k < sizeof kernels / sizeof *kernels; k++) {
        PyObject *names = PyTuple_New(kernels[k]->count);
        for (Py_ssize_t i = 0; names && i < kernels[k]->count; i++)
            PyTuple_SET_ITEM(names, i, PyUnicode_FromString(kernels[k]->arguments[i].name));
        if (!names || PyDict_SetItemString(all, kernels[k]->name, names)) Py_CLEAR(all);
        Py_XDECREF(names);
    }
    return all;
}

/* ---- levels ---- */

static PyObject *py_levels(PyObject *self, PyObject *none) {
    const int n = level_count();
    PyObject *names = PyTuple_New(n);
    (void)self, (void)none;
    for (int i = 0; names && i < n; i++)
        PyTuple_SET_ITEM(names, i, PyUnicode_FromString(level_name(i)));
    return names;
}

static PyObject *py_level(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyUnicode_FromString(level->name);
}

static PyObject *py_set_level(PyObject *self, PyObject *name) {
    const char *wanted = PyUnicode_AsUTF8(name);
    (void)self;
    if (!wanted) return NULL;
    return PyBool_FromLong(use_level(wanted));
}

#define ALIKE(kernel, other) \
    {#kernel, (PyCFunction)(void (*)(void))py_##kernel, METH_FASTCALL | METH_KEYWORDS, NULL},
static PyMethodDef methods[] = {
    KERNELS(KERNEL, ALIKE)
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
    find_levels();
    if (!(data_ptr = PyUnicode_InternFromString("data_ptr"))) return NULL;
    PyObject *made = PyModule_Create(&module);
    PyObject *lists = made ? arguments() : NULL;
    if (!lists || PyModule_AddObjectRef(made, "arguments", lists) ||
        PyModule_AddIntConstant(made, "NOT_FINITE", NOT_FINITE))
        Py_CLEAR(made);
    Py_XDECREF(lists);
    return made;
}
