// What the dialect of the bodies means in Metal. One threadgroup works on one row.

typedef uint u32;
typedef ulong u64;

#define THREADGROUP(type, name, length) threadgroup type name[length]
#define THREADGROUP_COUNTER(name) threadgroup metal::atomic_uint name
#define COUNTER_ADD(name, amount) \
    metal::atomic_fetch_add_explicit(&name, (u32)(amount), metal::memory_order_relaxed)
#define COUNTER_LOAD(name) metal::atomic_load_explicit(&name, metal::memory_order_relaxed)
#define COUNTER_STORE(name, amount) \
    metal::atomic_store_explicit(&name, (u32)(amount), metal::memory_order_relaxed)
#define BARRIER() metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup)
#define UNROLL _Pragma("clang loop unroll(full)")
#define BITS(number) as_type<u32>(number)
#define FLOAT(bits) as_type<float>((u32)(bits))
