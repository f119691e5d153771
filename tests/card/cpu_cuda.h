// Makes a C++17 compiler take CUDA kernels that use neither shared memory nor synchronisation, and runs their threads
// one after another; those of a block of 32 by turns, as far as the next value that its lanes exchange. Compile without contraction of floating-point operations: -ffp-contract=off.
#pragma once

#include <cmath>
#include <csetjmp>
#include <csignal>
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
inline unsigned __float_as_uint(float number) {
    unsigned bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}
using std::isfinite;

// Contexts begin a lane on a stack of its own; from then on jumps are enough, which ask nothing of the system.
struct Warp {
    static constexpr unsigned size = 32, stack = 1 << 16;
    ucontext_t context;
    jmp_buf outside, lanes[size];
    unsigned lane = 0, left = 0;
    bool ended[size] = {};
    std::uint32_t given[2][size] = {};
    unsigned exchanges[size] = {};
    std::function<void()> body;
    std::vector<char> stacks = std::vector<char>(size * stack);

    void wait() {  // until all lanes have come as far
        if (!_setjmp(lanes[lane])) _longjmp(outside, 1);
    }
    static void begin();
    void start();
    void run();
};
inline thread_local Warp* warp = nullptr;

inline void Warp::begin() {
    warp->body();
    warp->ended[warp->lane] = true;
    --warp->left;
    _longjmp(warp->outside, 1);
}

inline void Warp::start() {
    getcontext(&context);
    context.uc_stack.ss_sp = &stacks[lane * stack];
    context.uc_stack.ss_size = stack;
    makecontext(&context, begin, 0);
    ended[lane] = false;
    exchanges[lane] = 0;
    setcontext(&context);
}

inline void Warp::run() {
    left = size;
    for (lane = 0; lane < size; ++lane) {
        threadIdx.x = lane;
        if (!_setjmp(outside)) start();
    }
    while (left)
        for (lane = 0; lane < size; ++lane) {
            threadIdx.x = lane;
            if (!ended[lane] && !_setjmp(outside)) _longjmp(lanes[lane], 1);
        }
}

// Every lane gives its value before one reads; nobody is two exchanges ahead, so two places are enough.
template <class Value>
Value __shfl_xor_sync(unsigned, Value value, unsigned distance) {
    static_assert(sizeof(Value) == sizeof(std::uint32_t));
    std::uint32_t* given = warp->given[warp->exchanges[warp->lane]++ % 2];
    std::memcpy(&given[warp->lane], &value, sizeof value);
    warp->wait();
    std::memcpy(&value, &given[warp->lane ^ distance], sizeof value);
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

// Where a kernel reads or writes what is no memory of the process, it ends there, as on a GPU; gives whether it did.
inline thread_local sigjmp_buf before_kernel;

template <class Work>
bool illegal_address(Work work) {
    struct sigaction ours = {}, theirs;
    ours.sa_handler = [](int) { siglongjmp(before_kernel, 1); };
    sigaction(SIGSEGV, &ours, &theirs);
    const bool illegal = sigsetjmp(before_kernel, 1);
    if (!illegal) work();
    sigaction(SIGSEGV, &theirs, nullptr);
    return illegal;
}

// What ctypes calls.
#define EXPOSE(kernel)                                                                                      \
    extern "C" bool run_##kernel(unsigned across, unsigned down, unsigned threads, void** arguments) {      \
        return illegal_address([&] { run_threads(kernel, across, down, threads, arguments); });             \
    }                                                                                                       \
    extern "C" const char* types_##kernel() {                                                               \
        static const std::string types = parameter_types(kernel);                                           \
        return types.c_str();                                                                               \
    }
