// What the dialect of the bodies means in C++: a threadgroup emulated by one fiber per thread.
//
// Fibers run one after the other; BARRIER() hands over to the scheduler, and when every fiber waits
// at the same one a new epoch begins. Found on the way: reading threadgroup memory that was never
// written; two threads meeting in a cell within one epoch (a missing barrier, whatever the order
// they happened to run in); threads at different barriers; a row without end; indices out of bounds.

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700  // macOS keeps ucontext behind it
#endif
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include <ucontext.h>

typedef std::uint32_t u32;
typedef std::uint64_t u64;

#define THREADGROUP(type, name, length) auto& name = emulator::array<type>(#name, length)
#define THREADGROUP_COUNTER(name) auto& name = emulator::array<u32>(#name, 1)
#define COUNTER_ADD(name, amount) (name).add(amount)
#define COUNTER_LOAD(name) (name).load(0)
#define COUNTER_STORE(name, amount) (name).store(0, amount)
#define BARRIER() emulator::barrier(__LINE__)
#define UNROLL
#define BITS(number) emulator::cast<u32>(number)
#define FLOAT(bits) emulator::cast<float>((u32)(bits))

namespace emulator {

const u32 NOBODY = ~0u, SEVERAL = ~0u - 1;
const u32 MOST_EPOCHS = 200000;  // a row that takes more will never end
const std::size_t STACK = 64 * 1024;

struct Memory {
    virtual ~Memory() {}
};

// The one threadgroup that runs now.
struct Group {
    ucontext_t scheduler;
    std::vector<ucontext_t> fibers;
    std::vector<int> waiting;  // the line of the barrier, 0 where the thread runs or is done
    std::vector<bool> done;
    std::map<std::string, std::unique_ptr<Memory>> memory;
    std::function<void(u32, u32)> body;
    u32 row, thread, epoch;
    std::string error;
};
inline Group& group() {
    static Group only;
    return only;
}

// Keeps the first complaint and never comes back to this fiber.
[[noreturn]] inline void fail(const char* format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    Group& g = group();
    g.error = "row " + std::to_string(g.row) + ", thread " + std::to_string(g.thread) + ": " + text;
    for (;;) swapcontext(&g.fibers[g.thread], &g.scheduler);
}

inline void barrier(int line) {
    Group& g = group();
    g.waiting[g.thread] = line;
    swapcontext(&g.fibers[g.thread], &g.scheduler);
}

template <class To, class From>
To cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast keeps the bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Who did one kind of thing to a cell in the current epoch.
struct Trail {
    u32 epoch = 0, thread = NOBODY;
    void leave() {
        const Group& g = group();
        thread = epoch == g.epoch && thread != g.thread ? SEVERAL : g.thread;
        epoch = g.epoch;
    }
    bool is_from_another() const { return epoch == group().epoch && thread != group().thread; }
};

template <class T>
class Shared : public Memory {
  public:
    Shared(const char* name, u32 length) : name(name), cells(length) {
        for (Cell& cell : cells) std::memset(static_cast<void*>(&cell.value), 0xA5, sizeof(T));
    }

    struct Reference {
        Shared* owner;
        u32 index;
        operator T() const { return owner->load(index); }
        Reference& operator=(T value) {
            owner->store(index, value);
            return *this;
        }
        Reference& operator=(const Reference& other) { return *this = T(other); }
    };
    Reference operator[](u32 index) { return {this, index}; }

    T load(u32 index) {
        Cell& cell = written_cell(index);
        if (cell.stored.is_from_another() || cell.added.is_from_another())
            fail("reads %s[%u] while another thread writes it: no barrier between them", name, index);
        cell.loaded.leave();
        return cell.value;
    }
    void store(u32 index, T value) {
        Cell& cell = at(index);
        if (cell.stored.is_from_another() || cell.added.is_from_another() || cell.loaded.is_from_another())
            fail("writes %s[%u] while another thread uses it: no barrier between them", name, index);
        cell.stored.leave();
        cell.written = true;
        cell.value = value;
    }
    T add(T amount) {  // atomic: additions may meet each other, and nothing else
        Cell& cell = written_cell(0);
        if (cell.stored.is_from_another() || cell.loaded.is_from_another())
            fail("adds to %s while another thread uses it: no barrier between them", name);
        cell.added.leave();
        const T before = cell.value;
        cell.value += amount;
        return before;
    }

  private:
    struct Cell {
        T value;
        bool written = false;
        Trail stored, loaded, added;
    };
    Cell& at(u32 index) {
        if (index >= cells.size()) fail("%s[%u] lies outside its %zu cells", name, index, cells.size());
        return cells[index];
    }
    Cell& written_cell(u32 index) {
        Cell& cell = at(index);
        if (!cell.written) fail("reads %s[%u], which nobody has written", name, index);
        return cell;
    }
    const char* name;
    std::vector<Cell> cells;
};

template <class T>
Shared<T>& array(const char* name, u32 length) {
    std::unique_ptr<Memory>& place = group().memory[name];
    if (!place) place.reset(new Shared<T>(name, length));
    return static_cast<Shared<T>&>(*place);
}

// Device memory that is read; reads are counted.
template <class T>
class Input {
  public:
    Input(const char* name, const void* data, u64 length, u64* reads)
        : name(name), data(static_cast<const T*>(data)), length(length), reads(reads) {}
    T operator[](u64 index) const {
        if (index >= length) fail("%s[%llu] lies outside", name, (unsigned long long)index);
        ++*reads;
        return data[index];
    }

  private:
    const char* name;
    const T* data;
    u64 length;
    u64* reads;
};

// Device memory that is written, every place exactly once.
template <class T>
class Output {
  public:
    Output(const char* name, void* data, u64 length)
        : name(name), data(static_cast<T*>(data)), written(length) {}
    T& operator[](u64 index) {
        if (index >= written.size()) fail("%s[%llu] lies outside", name, (unsigned long long)index);
        if (written[index]) fail("%s[%llu] is written twice", name, (unsigned long long)index);
        written[index] = true;
        return data[index];
    }

  private:
    const char* name;
    T* data;
    std::vector<bool> written;
};

inline void start() {
    Group& g = group();
    const u32 thread = g.thread;
    g.body(g.row, thread);
    g.done[thread] = true;
    swapcontext(&g.fibers[thread], &g.scheduler);
}

// One round: every thread runs to its next barrier or to its end. True while there are more.
inline bool run_to_barrier() {
    Group& g = group();
    const u32 threads = g.fibers.size();
    u32 finished = 0, last = 0;
    for (u32 turn = 0; turn < threads; turn++) {
        g.thread = g.epoch % 2 ? turn : threads - 1 - turn;
        if (!g.done[g.thread]) swapcontext(&g.scheduler, &g.fibers[g.thread]);
        if (!g.error.empty()) return false;
        if (g.done[g.thread]) finished++;
        else last = g.thread;
    }
    if (finished == threads) return false;
    for (u32 thread = 0; thread < threads; thread++) {
        if (g.done[thread] || g.waiting[thread] != g.waiting[last]) {
            g.error = "row " + std::to_string(g.row) + ": divergent barrier: thread " + std::to_string(last) +
                      " waits at one that thread " + std::to_string(thread) + " does not reach";
            return false;
        }
    }
    if (++g.epoch == MOST_EPOCHS) g.error = "row " + std::to_string(g.row) + ": does not come to an end";
    return g.error.empty();
}

// Runs the body for each row; the complaint, "" where there is none.
inline const char* run(u32 rows, u32 threads, std::function<void(u32, u32)> body) {
    Group& g = group();
    std::vector<char> stacks(threads * STACK);
    g.body = body;
    g.error.clear();
    g.fibers.resize(threads);
    for (g.row = 0; g.row < rows && g.error.empty(); g.row++) {
        g.memory.clear();
        g.epoch = 1;
        g.waiting.assign(threads, 0);
        g.done.assign(threads, false);
        for (u32 thread = 0; thread < threads; thread++) {
            ucontext_t& fiber = g.fibers[thread];
            getcontext(&fiber);
            fiber.uc_stack.ss_sp = &stacks[thread * STACK];
            fiber.uc_stack.ss_size = STACK;
            fiber.uc_link = nullptr;
            makecontext(&fiber, start, 0);
        }
        while (run_to_barrier()) {
        }
    }
    return g.error.c_str();
}

}  // namespace emulator
