// Where array code would go over its arrays many times: one pass each, in CUDA.
//
// Every kernel computes what the array code of the Python module named above it does, and the tests compare the two.
// There is no shared memory, no synchronisation and no operation of a warp, so a C++ compiler behind tests/cpu_cuda.h
// runs the same source. probes/kernels.py lists the arguments and launches.

struct Words {
    unsigned a, b, c, d;
};

struct Normals {
    float first, second;
};

// probes/noise.py: philox4x32
__device__ Words philox4x32(Words counter, unsigned long long seed) {
    unsigned low = (unsigned)seed, high = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        counter = {
            __umulhi(0xCD9E8D57u, counter.c) ^ counter.b ^ low,
            0xCD9E8D57u * counter.c,
            __umulhi(0xD2511F53u, counter.a) ^ counter.d ^ high,
            0xD2511F53u * counter.a,
        };
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return counter;
}

// probes/noise.py: counter
__device__ Words counter_of(unsigned block, unsigned long long key, unsigned draw, unsigned stream) {
    return {block, (unsigned)(key >> 32), (unsigned)key ^ draw, stream};
}

// probes/noise.py: polar
__device__ Normals polar(unsigned word, unsigned turns) {
    const float uniform = ((float)word + 0.5f) * 0x1p-32f;
    const float radius = sqrtf(-2.0f * logf(uniform));
    float sine, cosine;
    sincosf((float)turns * (6.283185307179586f * 0x1p-32f), &sine, &cosine);
    return {radius * cosine, radius * sine};
}

// probes/noise.py: unit_normal_fields. x counts an image's blocks of four pixels, y the images.
extern "C" __global__ void unit_normal_fields(
    float* fields, const unsigned long long* keys, unsigned long long seed, unsigned draw, unsigned blocks) {
    const unsigned block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= blocks) return;
    const Words words = philox4x32(counter_of(block, keys[blockIdx.y], draw, 0), seed);
    const Normals ab = polar(words.a, words.b), cd = polar(words.c, words.d);
    float* field = fields + 4ll * blocks * blockIdx.y + block;
    field[0] = ab.first;
    field[blocks] = ab.second;
    field[2ll * blocks] = cd.first;
    field[3ll * blocks] = cd.second;
}

// probes/critical_band.py: bring_into_range and redraw. x counts an image's pixels, y the images.
extern "C" __global__ void mix_noise(
    float* out, const float* __restrict__ grey, const float* __restrict__ band, float noise_sd,
    const unsigned long long* keys, unsigned long long seed, unsigned draw, unsigned pixels) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const long long image = blockIdx.y, place = image * pixels + pixel;
    // Rounded before it is added, as in the array code: a fused sum can fall on the other side of a border.
    const float noise = __fmul_rn(noise_sd, band[place]);
    float value = grey[place] + noise;
    if (value < 0.0f && noise >= -0.9f) {
        value = 0.1f;
    } else if (value > 1.0f && noise <= 0.9f) {
        value = 0.9f;
    }
    for (unsigned attempt = 1; value < 0.0f || value > 1.0f; ++attempt) {
        const Words words = philox4x32(counter_of(pixel, keys[image], draw, attempt), seed);
        value = grey[place] + __fmul_rn(noise_sd, polar(words.a, words.b).first);
    }
    float* red = out + 3 * image * pixels + pixel;
    red[0] = value;
    red[pixels] = value;
    red[2ll * pixels] = value;
}

// engine/reduce.py: reduce_logits. A thread reduces a row; without labels, `ranks` is not touched.
extern "C" __global__ void reduce_logits(
    unsigned short* predicted, unsigned short* ranks, float* confidence,
    const float* __restrict__ logits, const int* __restrict__ labels, unsigned classes, unsigned rows) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const float* __restrict__ scores = logits + (long long)row * classes;
    const unsigned label = labels ? (unsigned)labels[row] : 0;
    const float wanted = scores[label];
    float best = scores[0];
    unsigned winner = 0, above = 0;
    bool finite = true;
    // Without branches (| and &, not || and &&), so that the loads of eight steps are under way at once.
#pragma unroll 8
    for (unsigned k = 0; k < classes; ++k) {
        const float score = scores[k];
        const bool better = !(score <= best) & (best == best);  // the first NaN wins, as argmax has it
        best = better ? score : best;
        winner = better ? k : winner;
        above += (score > wanted) | ((score == wanted) & (k < label));
        finite &= (bool)isfinite(score);
    }
    // Sums of sums: a thousand terms added to one float would cost two digits.
    float total = 0.0f;
    for (unsigned first = 0; first < classes; first += 32) {
        const unsigned end = classes - first < 32 ? classes : first + 32;
        float part = 0.0f;
#pragma unroll 8
        for (unsigned k = first; k < end; ++k) part += expf(scores[k] - best);
        total += part;
    }
    predicted[row] = (unsigned short)winner;
    if (labels) ranks[row] = (unsigned short)above;
    confidence[row] = finite ? 1.0f / total : nanf("");
}
