/* A machine that runs CUDA kernels on the CPU, and watches them.
 *
 * Blocks run one after the other. Every thread of a block is a fibre: it runs until it ends or has
 * to wait, for its block at a barrier or for its warp at an exchange, and then the next one runs;
 * odd blocks take their threads in the opposite order. What is checked:
 *
 * - every load and store lies in an argument's buffer, in shared memory or on the thread's stack,
 *   and at a multiple of its size;
 * - no shared memory is read before it was written;
 * - no two threads touch the same byte, one of them writing, unless a barrier lies between (for
 *   threads of one warp, __syncwarp; for blocks, nothing but the end of the kernel, atomics, or a
 *   fence of the block that came first);
 * - all threads of a block wait at the same barrier, all threads of a mask at the same exchange.
 *
 * The first fault ends the launch; its message is the result. */
#include "simt.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <string>
#include <vector>

using namespace simt;

namespace {

/* Stacks lie a few cache lines off a power of two, lest they share the same lines of the caches. */
enum {
    STACK = (64 << 10) + 5 * 64,
    CANARY = 0x51A7C0DE,
    MOST_THREADS = 1024,
    MOST_SHARED = 227 << 10
};
enum State { READY, AT_BARRIER, AT_EXCHANGE, ENDED };
enum Scope : uint8_t { THREAD, WARP, BLOCK, GRID };

struct Pending {
    char *to, data[16];
    int size, group;
};

struct Fibre {
    void *stack_pointer;
    State state;
    int line;
    Operation operation;
    unsigned mask;
    Exchange *data;
    dim3 index;
    std::vector<Pending> pending;
    int group;
};

/* Who touched a byte last: the thread, the block's count of barriers and the warp's of syncs. */
struct Mark {
    uint32_t block, epoch, turn;
    uint16_t thread;
    Scope scope;
    bool atomic;
};
struct Marks {
    Mark written, read;
};
static_assert(sizeof(Marks) == 32, "marks are compared as bytes");

struct Region {
    char *start, *end;
    bool shared;
    std::string name;
    Marks *marks;
};

std::vector<Region> shared_arrays;  // of the sources
std::vector<Region> regions;        // of this launch
Region *last_region;

Fibre fibres[MOST_THREADS];
int threads, running;
uint32_t turns[MOST_THREADS / 32], epoch, first_epoch;
int arrived[MOST_THREADS / 32];  // of each warp, at exchanges
dim3 grid_dim, block_dim, block_id;
uint32_t block_number;
std::vector<bool> fenced;
char *stacks;
alignas(1024) char dynamic_memory[MOST_SHARED];

void (*entry)(const long long *, int);
const long long *entry_words;
int entry_count;
void *scheduler;
std::string message;
const void *fault_address;

/* The library that this is linked into, up to where its arrays in shared memory may begin. */
extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" char _edata[] __attribute__((visibility("hidden")));

/* ---- fibres ---- */

#if defined(__x86_64__)
extern "C" void simt_switch(void **save, void *load);
asm(R"(
.text
.type simt_switch, @function
simt_switch:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
.size simt_switch, .-simt_switch
)");
#elif defined(__aarch64__)
extern "C" void simt_switch(void **save, void *load);
asm(R"(
.text
.type simt_switch, %function
simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]; stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]; ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size simt_switch, .-simt_switch
)");
#else
#error "the emulator switches between threads in assembly for x86-64 and aarch64"
#endif

Fibre &self() { return fibres[running]; }

void yield() {
    void *discarded;
    simt_switch(self().state == ENDED ? &discarded : &self().stack_pointer, scheduler);
}

void run_thread() {
    entry(entry_words, entry_count);
    self().state = ENDED;
    if (!self().pending.empty()) fail("ends before its asynchronous copies have arrived");
    yield();
}

int &canary_of(int i) { return *(int *)(stacks + (size_t)i * STACK); }

void prepare(Fibre &f, int i) {
    f.state = READY;
    f.pending.clear();
    f.group = 0;
    f.index = {{(unsigned)i % block_dim.x, (unsigned)i / block_dim.x % block_dim.y,
                (unsigned)i / block_dim.x / block_dim.y}};
    canary_of(i) = CANARY;
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK - 64);
#if defined(__x86_64__)
    top[-1] = nullptr;  // where run_thread would return to
    top[-2] = (void *)run_thread;
    f.stack_pointer = top - 8;
#else
    top -= 20;
    top[11] = (void *)run_thread;
    f.stack_pointer = top;
#endif
}

/* ---- faults ---- */

std::string format(const char *pattern, ...) {
    char text[512];
    va_list list;
    va_start(list, pattern);
    vsnprintf(text, sizeof text, pattern, list);
    va_end(list);
    return text;
}

std::string name_of(const Fibre &f) {
    return format("thread (%u, %u, %u) of block (%u, %u, %u)", f.index.x, f.index.y, f.index.z,
                  block_id.x, block_id.y, block_id.z);
}

[[noreturn]] void fault(const std::string &what, const void *address) {
    message = name_of(self()) + " " + what;
    fault_address = address;
    self().state = ENDED;
    yield();
    abort();
}

/* ---- memory ---- */

Region *find(const char *at) {
    if (last_region && at >= last_region->start && at < last_region->end) return last_region;
    for (Region &r : regions)
        if (at >= r.start && at < r.end) return last_region = &r;
    return nullptr;
}

[[noreturn]] void out_of_bounds(const char *at, unsigned long size, Access access,
                                const void *address) {
    const Region *nearest = nullptr;
    long distance = 0;
    for (const Region &r : regions) {
        const long d = at < r.start ? r.start - at : at - r.end;
        if (!nearest || d < distance) nearest = &r, distance = d;
    }
    const char *verb = access == READ ? "reads" : access == WRITE ? "writes" : "updates";
    if (!nearest || distance > 1 << 20)
        fault(format("%s %lu bytes that belong to no buffer", verb, size), address);
    if (at < nearest->start)
        fault(format("%s %lu bytes, %ld bytes before the start of %s", verb, size, distance,
                     nearest->name.c_str()),
              address);
    if (at >= nearest->end)
        fault(format("%s %lu bytes, %ld bytes after the end of %s", verb, size, distance,
                     nearest->name.c_str()),
              address);
    fault(format("%s %lu bytes across the end of %s", verb, size, nearest->name.c_str()), address);
}

/* Whether everything a mark stands for comes before what the running thread does now. */
bool ordered(const Mark &m, bool shared) {
    if (!m.epoch || (shared && m.epoch < first_epoch)) return true;
    if (m.scope == GRID) return false;
    if (m.block != block_number) return fenced[m.block];
    if (m.epoch < epoch) return true;
    if (m.scope == BLOCK || m.thread / 32 != running / 32) return false;
    if (m.turn < turns[running / 32]) return true;
    return m.scope == THREAD && m.thread == running;
}

Mark mark_of(bool atomic) {
    return {block_number, epoch, turns[running / 32], (uint16_t)running, THREAD, atomic};
}

void note_read(Mark &m, bool shared) {
    Mark now = mark_of(false);
    if (!ordered(m, shared)) {
        if (m.block != block_number)
            now.scope = GRID;
        else if (m.scope >= BLOCK || m.thread / 32 != running / 32)
            now.scope = BLOCK;
        else
            now.scope = WARP;
        if (m.scope > now.scope) now.scope = m.scope;
    }
    m = now;
}

[[noreturn]] void race(const Region &r, const char *at, const Mark &other, const char *verb,
                       const char *other_verb, const void *address) {
    const std::string who =
        other.scope != THREAD
            ? "other threads"
            : format("thread %u (counted through) of block number %u", other.thread, other.block);
    fault(format("%s byte %ld of %s, which %s %s with no barrier between", verb,
                 (long)(at - r.start), r.name.c_str(), who.c_str(), other_verb),
          address);
}

void check_at(const void *pointer, unsigned long size, Access access, const void *address,
              bool aligned) {
    const char *at = (const char *)pointer;
    Region *r = find(at);
    if (!r) {
        const char *stack = stacks + (size_t)running * STACK;
        if (at >= stack && at + size <= stack + STACK) return;
        if (access == READ && at >= __ehdr_start && at + size <= _edata)
            return;  // a constant of the sources
        out_of_bounds(at, size, access, address);
    }
    if (at + size > r->end) out_of_bounds(at, size, access, address);
    if (aligned && (uintptr_t)at % size)
        fault(format("touches %lu bytes at byte %ld of %s, which is no multiple of %lu", size,
                     (long)(at - r->start), r->name.c_str(), size),
              address);
    const bool shared = r->shared;
    Marks before, after;
    for (unsigned long i = 0; i < size; i++, at++) {
        Marks &m = r->marks[at - r->start];
        if (i && !memcmp(&m, &before, sizeof m)) { /* as the byte before it */
            m = after;
            continue;
        }
        before = m;
        if (access == READ) {
            if (shared && m.written.epoch < first_epoch)
                fault(format("reads byte %ld of %s, which no thread of the block has written",
                             (long)(at - r->start), r->name.c_str()),
                      address);
            if (!ordered(m.written, shared)) race(*r, at, m.written, "reads", "wrote", address);
            note_read(m.read, shared);
        } else {
            const bool atomic = access == ATOMIC;
            if (!(atomic && m.written.atomic) && !ordered(m.written, shared))
                race(*r, at, m.written, "writes", "wrote", address);
            if (!ordered(m.read, shared)) race(*r, at, m.read, "writes", "read", address);
            m.written = mark_of(atomic);
        }
        after = m;
    }
}

}  // namespace

/* ---- what the compiler calls (-fsanitize=thread,bounds) ---- */

#define CHECKS(size)                                                   \
    extern "C" void __tsan_read##size(const void *at) {                \
        check_at(at, size, READ, __builtin_return_address(0), true);   \
    }                                                                  \
    extern "C" void __tsan_write##size(const void *at) {               \
        check_at(at, size, WRITE, __builtin_return_address(0), true);  \
    }                                                                  \
    extern "C" void __tsan_unaligned_read##size(const void *at) {      \
        check_at(at, size, READ, __builtin_return_address(0), false);  \
    }                                                                  \
    extern "C" void __tsan_unaligned_write##size(const void *at) {     \
        check_at(at, size, WRITE, __builtin_return_address(0), false); \
    }
CHECKS(1)
CHECKS(2)
CHECKS(4)
CHECKS(8)
CHECKS(16)
extern "C" void __tsan_read_range(const void *at, unsigned long size) {
    check_at(at, size, READ, __builtin_return_address(0), false);
}
extern "C" void __tsan_write_range(const void *at, unsigned long size) {
    check_at(at, size, WRITE, __builtin_return_address(0), false);
}
extern "C" void __tsan_init() {}
extern "C" void __ubsan_handle_out_of_bounds(void *, unsigned long index) {
    fault(format("uses index %ld of an array that ends before", (long)index),
          __builtin_return_address(0));
}

/* ---- what the kernels call ---- */

namespace simt {

dim3 thread_index() { return self().index; }
dim3 block_index() { return block_id; }
dim3 block_size() { return block_dim; }
dim3 grid_size() { return grid_dim; }
void *dynamic_shared() { return dynamic_memory; }

void check(const void *at, unsigned long size, Access access) {
    check_at(at, size, access, __builtin_return_address(0), true);
}

void fail(const char *what) { fault(what, nullptr); }

void fence() { fenced[block_number] = true; }

void barrier(int line) {
    self().state = AT_BARRIER;
    self().line = line;
    yield();
}

namespace {

int8_t byte(const uint32_t *words, int i) { return (int8_t)(words[i / 4] >> 8 * (i % 4)); }

/* d += a * b in fragments: `half` registers of a and b for each 8 rows of a and each 16 of k. */
template <int rows, int depth> void multiply(Fibre *warp) {
    const int a_registers = rows / 8 * (depth / 16), b_registers = depth / 16;
    int16_t a[16][32], b[8][32]; /* b by columns */
    int d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t *in = warp[lane].data->in;
        const int group = lane / 4, member = lane % 4;
        for (int i = 0; i < 4 * a_registers; i++)
            a[group + 8 * (i / 4 % (rows / 8))][member * 4 + i % 4 + 16 * (i / 4 / (rows / 8))] =
                byte(in, i);
        for (int i = 0; i < 4 * b_registers; i++)
            b[group][member * 4 + i % 4 + 16 * (i / 4)] = byte(in + a_registers, i);
        for (int i = 0; i < rows / 4; i++)
            d[group + 8 * (i / 2)][member * 2 + i % 2] = (int)in[a_registers + b_registers + i];
    }
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < 8; n++) {
            int products = 0;
            for (int k = 0; k < depth; k++) products += a[m][k] * b[n][k];
            if (__builtin_add_overflow(d[m][n], products, &d[m][n]))
                fail("adds up more than an int32 holds");
        }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < rows / 4; i++)
            warp[lane].data->out[i] = (uint32_t)d[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
}

void load_matrices(Fibre *warp) {
    const int first = running / 32 * 32, me = running, count = (int)warp[0].data->in[2];
    for (int m = 0; m < count; m++) {
        uint16_t rows[8][8];
        for (int r = 0; r < 8; r++) {
            const Exchange &data = *warp[8 * m + r].data;
            const void *from = (const void *)((uint64_t)data.in[1] << 32 | data.in[0]);
            running = first + 8 * m + r;  // whose address it is
            check_at(from, 16, READ, nullptr, true);
            memcpy(rows[r], from, 16);
            running = me;
        }
        for (int lane = 0; lane < 32; lane++) {
            const int row = lane / 4, pair = lane % 4 * 2;
            const bool turned = warp[lane].data->in[3];
            const uint32_t low = turned ? rows[pair][row] : rows[row][pair];
            const uint32_t high = turned ? rows[pair + 1][row] : rows[row][pair + 1];
            warp[lane].data->out[m] = high << 16 | low;
        }
    }
}

void complete(Operation operation, unsigned mask, Fibre *warp) {
    if ((operation == MMA_16 || operation == MMA_8 || operation == LDMATRIX) && ~mask)
        fail("calls a matrix operation without its whole warp");
    if (operation == MMA_16) return multiply<16, 32>(warp);
    if (operation == MMA_8) return multiply<8, 16>(warp);
    if (operation == LDMATRIX) return load_matrices(warp);
    if (operation == SYNC) {
        if (!~mask) turns[running / 32]++;
        return;
    }
    uint32_t total = 0;
    bool first = true;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        Exchange &data = *warp[lane].data;
        const uint32_t v = data.in[0];
        switch (operation) {
            case SHUFFLE: {
                const int from = (int)data.in[2];
                if (!(mask >> from & 1))
                    fail("takes part in a shuffle that reads a lane outside its mask");
                memcpy(data.out, warp[from].data->in, 8);
                break;
            }
            case BALLOT: total |= v << lane; break;
            case ADD: total += v; break;
            case MIN: total = first || (int)v < (int)total ? v : total; break;
            case MAX: total = first || (int)v > (int)total ? v : total; break;
            case UMIN: total = first || v < total ? v : total; break;
            case UMAX: total = first || v > total ? v : total; break;
            case AND: total = first ? v : total & v; break;
            case OR: total |= v; break;
            case XOR: total ^= v; break;
            default: break;
        }
        first = false;
    }
    if (operation == SHUFFLE) return;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) warp[lane].data->out[0] = total;
}

}  // namespace

void exchange(Operation operation, unsigned mask, Exchange &data, int line) {
    const int first = running / 32 * 32;
    if (threads - first < 32)
        mask &= (1u << (threads - first)) - 1;  // a last warp that is not full
    if (!(mask >> running % 32 & 1)) fail("takes part in an exchange whose mask leaves it out");
    Fibre &f = self();
    f.state = AT_EXCHANGE;
    f.line = line;
    f.operation = operation;
    f.mask = mask;
    f.data = &data;
    if (++arrived[first / 32] < __builtin_popcount(mask)) return yield();
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        const Fibre &other = fibres[first + lane];
        if (other.state != AT_EXCHANGE) return yield();
        if (other.line != line || other.operation != operation || other.mask != mask)
            fault(format("exchanges at line %d while %s of its mask does so at line %d", line,
                         name_of(other).c_str(), other.line),
                  nullptr);
    }
    complete(operation, mask, fibres + first);
    arrived[first / 32] -= __builtin_popcount(mask);
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) fibres[first + lane].state = READY;
}

void copy_async(void *to, const void *from, int copied, int total) {
    if (copied < 0 || copied > total) fail("copies a wrong number of bytes asynchronously");
    Pending p = {(char *)to, {}, total, self().group};
    if (copied) {
        check_at(from, (unsigned long)copied, READ, __builtin_return_address(0), copied == total);
        memcpy(p.data, from, (size_t)copied);
    }
    if ((uintptr_t)from % (uintptr_t)total) fail("copies asynchronously from an unaligned address");
    check_at(to, (unsigned long)total, WRITE, __builtin_return_address(0), true);
    memset(to, 0x5A, (size_t)total);
    self().pending.push_back(p);
}

void commit_async() { self().group++; }

void wait_async(int left) {
    std::vector<Pending> rest;
    for (const Pending &p : self().pending) {
        if (p.group >= self().group - left) {
            rest.push_back(p);
            continue;
        }
        check_at(p.to, (unsigned long)p.size, WRITE, __builtin_return_address(0), true);
        memcpy(p.to, p.data, (size_t)p.size);
    }
    self().pending = rest;
}

}  // namespace simt

/* ---- launching ---- */

static void describe_deadlock() {
    const Fibre *waiting = nullptr, *other = nullptr;
    for (int i = 0; i < threads; i++)
        if (!waiting && fibres[i].state != ENDED) waiting = &fibres[i];
    for (int i = 0; i < threads; i++) {
        const Fibre &f = fibres[i];
        if (f.state != waiting->state || f.line != waiting->line) other = &f;
    }
    message = name_of(*waiting) + format(" waits at %s in line %d for ever",
                                         waiting->state == AT_BARRIER ? "a barrier" : "an exchange",
                                         waiting->line);
    if (other && other->state == ENDED)
        message += ", " + name_of(*other) + " has ended";
    else if (other)
        message += ", " + name_of(*other) +
                   format(" waits at %s in line %d",
                          other->state == AT_BARRIER ? "a barrier" : "an exchange", other->line);
}

static void run_block() {
    first_epoch = ++epoch;
    for (int w = 0; w < MOST_THREADS / 32; w++) turns[w] = 0, arrived[w] = 0;
    for (int i = 0; i < threads; i++) prepare(fibres[i], i);
    for (int ended = 0; ended < threads;) {
        bool moved = false;
        for (int k = 0; k < threads; k++) {
            running = block_number % 2 ? threads - 1 - k : k;
            if (self().state != READY) continue;
            moved = true;
            simt_switch(&scheduler, self().stack_pointer);
            if (canary_of(running) != CANARY) message = name_of(self()) + " uses too much stack";
            if (!message.empty()) return;
            ended += self().state == ENDED;
        }
        if (moved || ended == threads) continue;
        for (int i = 0; i < threads; i++)
            if (fibres[i].state != AT_BARRIER || fibres[i].line != fibres[0].line)
                return describe_deadlock();
        for (int i = 0; i < threads; i++) fibres[i].state = READY;
        epoch++;
    }
}

extern "C" const void *simt_base() { return __ehdr_start; }

/* Tells of an array in shared memory, by its place in the library. */
extern "C" void simt_shared_array(long long offset, long long size, const char *name) {
    char *start = __ehdr_start + offset;
    shared_arrays.push_back({start, start + size, true, std::string("the shared array ") + name,
                             (Marks *)calloc((size_t)size, sizeof(Marks))});
}

struct Buffer {
    char *start;
    long long size;
};

/* Runs a kernel; returns what went wrong, or NULL, and where in the program. */
extern "C" const char *simt_launch(void (*kernel)(const long long *, int), const long long *words,
                                   int count, const long long *grid, const long long *block,
                                   long long shared, const Buffer *buffers, int buffer_count,
                                   const void **where) {
    message.clear();
    fault_address = nullptr;
    *where = nullptr;
    grid_dim = {{(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]}};
    block_dim = {{(unsigned)block[0], (unsigned)block[1], (unsigned)block[2]}};
    const long long wanted = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2];
    if (wanted < 1 || wanted > MOST_THREADS) return "a block has from 1 to 1024 threads";
    if (blocks < 1 || grid[0] > 0x7FFFFFFF || grid[1] > 65535 || grid[2] > 65535)
        return "a grid has from 1 to 2**31 - 1, 65535 and 65535 blocks";
    if (shared < 0 || shared > MOST_SHARED) return "a block has at most 227 KiB of shared memory";
    threads = (int)wanted;
    if (!stacks) {
        stacks = (char *)mmap(nullptr, (size_t)MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) return stacks = nullptr, "there is no memory for the stacks";
    }
    regions = shared_arrays;
    last_region = nullptr;
    if (shared)
        regions.push_back({dynamic_memory, dynamic_memory + shared, true, "dynamic shared memory",
                           (Marks *)calloc((size_t)shared, sizeof(Marks))});
    for (int i = 0; i < buffer_count; i++)
        if (buffers[i].size)
            regions.push_back({buffers[i].start, buffers[i].start + buffers[i].size, false,
                               format("a buffer of %lld bytes", buffers[i].size),
                               (Marks *)calloc((size_t)buffers[i].size, sizeof(Marks))});
    entry = kernel;
    entry_words = words;
    entry_count = count;
    fenced.assign((size_t)blocks, false);
    block_number = 0;
    epoch++;
    for (unsigned z = 0; z < grid_dim.z && message.empty(); z++)
        for (unsigned y = 0; y < grid_dim.y && message.empty(); y++)
            for (unsigned x = 0; x < grid_dim.x && message.empty(); x++, block_number++) {
                block_id = {{x, y, z}};
                run_block();
            }
    for (size_t i = shared_arrays.size(); i < regions.size(); i++) free(regions[i].marks);
    *where = fault_address;
    return message.empty() ? nullptr : message.c_str();
}
