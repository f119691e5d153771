// Makes a C++17 compiler take CUDA kernels that use neither shared memory nor synchronisation, and runs their threads
// one after another. Compile without contraction of floating-point operations: -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__

struct Position {
    unsigned x = 0, y = 0;
};
inline thread_local Position blockIdx, blockDim, threadIdx;  // two threads may run kernels at once

inline unsigned __umulhi(unsigned a, unsigned b) { return (std::uint64_t{a} * b) >> 32; }
inline float __fmul_rn(float a, float b) { return a * b; }
using std::isfinite;

// NumPy's name of a parameter's type, with a star for a pointer: "float32", "int64*".
template <class Parameter>
std::string type_name() {
    using Value = std::remove_cv_t<std::remove_pointer_t<Parameter>>;
    static_assert(std::is_arithmetic_v<Value>);
    const std::string kind = std::is_floating_point_v<Value> ? "float" : std::is_signed_v<Value> ? "int" : "uint";
    return kind + std::to_string(8 * sizeof(Value)) + (std::is_pointer_v<Parameter> ? "* " : " ");
}

template <class... Parameters>
std::string parameter_types(void (*)(Parameters...)) {
    return (type_name<Parameters>() + ...);
}

// Like cuLaunchKernel: `arguments` points to each argument, and its type is what the kernel declares.
template <class... Parameters, std::size_t... place>
void run_threads(void (*kernel)(Parameters...), unsigned across, unsigned down, unsigned threads, void** arguments,
                 std::index_sequence<place...>) {
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < down; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < across; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                kernel(*static_cast<Parameters*>(arguments[place])...);
}

template <class... Parameters>
void run_threads(void (*kernel)(Parameters...), unsigned across, unsigned down, unsigned threads, void** arguments) {
    run_threads(kernel, across, down, threads, arguments, std::index_sequence_for<Parameters...>{});
}

// What ctypes calls.
#define EXPOSE(kernel)                                                                                      \
    extern "C" void run_##kernel(unsigned across, unsigned down, unsigned threads, void** arguments) {      \
        run_threads(kernel, across, down, threads, arguments);                                              \
    }                                                                                                       \
    extern "C" const char* types_##kernel() {                                                               \
        static const std::string types = parameter_types(kernel);                                           \
        return types.c_str();                                                                               \
    }
