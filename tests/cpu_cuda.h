// Makes a C++17 compiler take CUDA kernels that use neither shared memory nor synchronisation, and runs their threads
// one after another; those of a block of 32 by turns, as far as the next value that its lanes exchange. Compile without contraction of floating-point operations: -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__

struct Position {
    unsigned x = 0, y = 0;
};
inline thread_local Position blockIdx, blockDim, threadIdx;  // two threads may run kernels at once

inline unsigned __umulhi(unsigned a, unsigned b) { return (std::uint64_t{a} * b) >> 32; }
inline float __fmul_rn(float a, float b) { return a * b; }
using std::isfinite;

struct Warp {
    static constexpr unsigned size = 32, stack = 1 << 16;
    ucontext_t outside, lanes[size];
    unsigned lane = 0;
    bool ended[size] = {};
    std::uint32_t given[size] = {};
    std::function<void()> body;
    std::vector<char> stacks = std::vector<char>(size * stack);

    void wait() { swapcontext(&lanes[lane], &outside); }  // until all lanes have come as far
    static void begin();
    void run();
};
inline thread_local Warp* warp = nullptr;

inline void Warp::begin() {
    warp->body();
    warp->ended[warp->lane] = true;
}

inline void Warp::run() {
    for (lane = 0; lane < size; ++lane) {
        getcontext(&lanes[lane]);
        lanes[lane].uc_stack.ss_sp = &stacks[lane * stack];
        lanes[lane].uc_stack.ss_size = stack;
        lanes[lane].uc_link = &outside;
        ended[lane] = false;
        makecontext(&lanes[lane], begin, 0);
    }
    for (bool going = true; going;) {
        going = false;
        for (lane = 0; lane < size; ++lane) {
            if (ended[lane]) continue;
            threadIdx.x = lane;
            swapcontext(&outside, &lanes[lane]);
            going |= !ended[lane];
        }
    }
}

// Every lane gives its value before one reads, and has read before one gives the next.
template <class Value>
Value __shfl_xor_sync(unsigned, Value value, unsigned distance) {
    static_assert(sizeof(Value) == sizeof(std::uint32_t));
    std::memcpy(&warp->given[warp->lane], &value, sizeof value);
    warp->wait();
    std::memcpy(&value, &warp->given[warp->lane ^ distance], sizeof value);
    warp->wait();
    return value;
}

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
    static thread_local Warp lanes;
    warp = &lanes;
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < down; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < across; ++blockIdx.x) {
            if (threads == Warp::size) {
                warp->body = [&] { kernel(*static_cast<Parameters*>(arguments[place])...); };
                warp->run();
                continue;
            }
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                kernel(*static_cast<Parameters*>(arguments[place])...);
        }
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
