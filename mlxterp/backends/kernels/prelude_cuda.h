// What the dialect of the bodies means in CUDA C++. One block works on one row.

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADGROUP(type, name, length) __shared__ type name[length]
#define THREADGROUP_COUNTER(name) __shared__ u32 name
#define COUNTER_ADD(name, amount) atomicAdd(&name, (u32)(amount))
#define COUNTER_LOAD(name) (name)
#define COUNTER_STORE(name, amount) ((name) = (u32)(amount))
#define BARRIER() __syncthreads()
#define UNROLL _Pragma("unroll")
#define BITS(number) __float_as_uint(number)
#define FLOAT(bits) __uint_as_float(bits)
