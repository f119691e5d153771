// Where array code would go over its arrays many times: one pass each, in CUDA.
//
// Every kernel computes what the array code of the Python module named above it does, and the tests compare the two.
// There is no shared memory and no synchronisation, and of a warp's operations only the exchange of values, in blocks of
// one warp: so a C++ compiler behind tests/card/cpu_cuda.h runs the same source. probes/kernels.py lists the arguments
// and launches.

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

// probes/noise.py: random_words. x counts an image's blocks of four words, y the images.
extern "C" __global__ void random_words(
    unsigned* words, const unsigned long long* keys, unsigned long long seed, unsigned draw, unsigned stream,
    unsigned blocks) {
    const unsigned block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= blocks) return;
    const Words made = philox4x32(counter_of(block, keys[blockIdx.y], draw, stream), seed);
    unsigned* word = words + 4ll * blocks * blockIdx.y + block;
    word[0] = made.a;
    word[blocks] = made.b;
    word[2ll * blocks] = made.c;
    word[3ll * blocks] = made.d;
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

// probes/critical_band.py: luma_in_arrays. x counts an image's pixels, y the images.
extern "C" __global__ void luma(unsigned char* out, const unsigned char* __restrict__ pixels, unsigned area) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= area) return;
    const unsigned char* image = pixels + 3ll * area * blockIdx.y + pixel;
    const unsigned red = image[0], green = image[area], blue = image[2ll * area];
    out[(long long)area * blockIdx.y + pixel] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
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

// probes/spectral.py: spectrum, before its products. x counts a quarter of a channel's pixels, y the channels of all
// images. Half a period on, even frequencies repeat and odd ones change sign; rows of quarters come before channels.
extern "C" __global__ void fold_quarters(
    float* even_even, float* even_odd, float* odd_even, float* odd_odd, const unsigned char* __restrict__ pixels,
    unsigned half, unsigned channels) {
    const unsigned place = blockIdx.x * blockDim.x + threadIdx.x, area = half * half;
    if (place >= area) return;
    const unsigned row = place / half, column = place % half;
    const unsigned char* left = pixels + 4ll * area * blockIdx.y + row * 2 * half + column;
    const int a = left[0], b = left[half], c = left[2 * area], d = left[2 * area + half];
    const long long there = ((long long)row * channels + blockIdx.y) * half + column;
    even_even[there] = (float)(a + b + c + d) / 255.0f;
    even_odd[there] = (float)(a - b + c - d) / 255.0f;
    odd_even[there] = (float)(a + b - c - d) / 255.0f;
    odd_odd[there] = (float)(a - b - c + d) / 255.0f;
}

// probes/spectral.py: _cut, of one block. x counts what of a channel's block is kept, y the channels of all images. From
// `low_edge` and `right_edge` on, rows and columns are of the highest frequency that is kept.
extern "C" __global__ void cut_block(
    float* out, const float* __restrict__ block, unsigned height, unsigned channels, unsigned width, unsigned across,
    unsigned low_edge, unsigned right_edge) {
    const unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= height * width) return;
    const unsigned row = place / width, column = place % width;
    const float* channel = block + (long long)blockIdx.y * across;
    const long long step = (long long)channels * across;
    float value = channel[row * step + column];
    if (row >= low_edge && column >= right_edge) {
        const unsigned down = row - low_edge, right = column - right_edge;
        const float opposite = channel[(low_edge + 1 - down) * step + right_edge + 1 - right];
        value = 0.25f * (down == right ? value - opposite : value + opposite);
    } else if (row >= low_edge || column >= right_edge) {
        value *= 0.5f;
    }
    out[((long long)row * channels + blockIdx.y) * width + column] = value;
}

// probes/spectral.py: filters_in_arrays, behind its products. x and y count as in fold_quarters. The quarters are what
// even and odd rows of a spectrum, by even and odd columns, add to the top left. Without `low` or `high`, only the other
// is made.
extern "C" __global__ void join_quarters(
    float* low, float* high, const unsigned char* __restrict__ pixels, const float* __restrict__ even_even,
    const float* __restrict__ even_odd, const float* __restrict__ odd_even, const float* __restrict__ odd_odd,
    unsigned half, unsigned channels) {
    const unsigned place = blockIdx.x * blockDim.x + threadIdx.x, area = half * half;
    if (place >= area) return;
    const unsigned row = place / half, column = place % half;
    const long long there = ((long long)row * channels + blockIdx.y) * half + column;
    const float a = even_even[there], b = even_odd[there], c = odd_even[there], d = odd_odd[there];
    const float kept[4] = {(a + b) + (c + d), (a - b) + (c - d), (a + b) - (c + d), (a - b) - (c - d)};
    const long long corner = 4ll * area * blockIdx.y + row * 2 * half + column;
    for (unsigned quarter = 0; quarter < 4; ++quarter) {
        const long long pixel = corner + quarter / 2 * 2 * area + quarter % 2 * half;
        if (low) low[pixel] = fminf(fmaxf(kept[quarter], 0.0f), 1.0f);
        if (high) high[pixel] = fminf(fmaxf((float)pixels[pixel] / 255.0f - kept[quarter], 0.0f), 1.0f);
    }
}

// probes/bilateral.py: mirrored at an edge without repeating it, once: the filter is smaller than the image.
__device__ int mirrored(int place, int size) {
    if (place < 0) return -place;
    return place < size ? place : 2 * (size - 1) - place;
}

// probes/bilateral.py: smooth_in_arrays. x counts an image's pixels, y the images.
extern "C" __global__ void bilateral(
    float* out, const unsigned char* __restrict__ pixels, const float* __restrict__ space, float exponent,
    unsigned reach, unsigned side) {
    const int radius = reach, size = side;
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x, area = size * size;
    if (pixel >= area) return;
    const int y = pixel / size, x = pixel % size;
    const unsigned char* __restrict__ image = pixels + 3ll * area * blockIdx.y;
    const int red = image[pixel], green = image[pixel + area], blue = image[pixel + 2 * area];
    float pull[3] = {0.0f, 0.0f, 0.0f}, weights = 0.0f;
    for (int down = -radius; down <= radius; ++down) {
        const unsigned char* __restrict__ row = image + mirrored(y + down, size) * size;
        for (int across = -radius; across <= radius; ++across) {
            const float near = *space++;
            if (near == 0.0f) continue;
            const unsigned char* __restrict__ there = row + mirrored(x + across, size);
            const int r = there[0] - red, g = there[area] - green, b = there[2 * area] - blue;
            const float apart = (float)(abs(r) + abs(g) + abs(b));
            const float weight = __fmul_rn(expf(__fmul_rn(__fmul_rn(apart, apart), exponent)), near);
            pull[0] += __fmul_rn(weight, (float)r);
            pull[1] += __fmul_rn(weight, (float)g);
            pull[2] += __fmul_rn(weight, (float)b);
            weights += weight;
        }
    }
    float* value = out + 3ll * area * blockIdx.y + pixel;
    const float own[3] = {(float)red, (float)green, (float)blue};
    for (int channel = 0; channel < 3; ++channel) {
        const float mean = (own[channel] + pull[channel] / weights) / 255.0f;
        value[channel * area] = fminf(fmaxf(mean, 0.0f), 1.0f);
    }
}

// probes/octaves.py: clip_sum_in_arrays. x counts a channel's pixels, y the channels of all images. `coarse` has images,
// or one number a channel: its area is then 1. `fine` may be absent.
extern "C" __global__ void clip_sum(
    float* out, const float* __restrict__ coarse, const float* __restrict__ fine, unsigned coarse_area, unsigned area) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= area) return;
    const long long place = (long long)area * blockIdx.y + pixel;
    float value = coarse[coarse_area == 1 ? blockIdx.y : place];
    if (fine) value += fine[place];
    out[place] = fminf(fmaxf(value, 0.0f), 1.0f);
}

// Whether the score of class k goes before that of class l, as argmax has it: the first NaN, or the first of the largest.
__device__ bool wins(float score, unsigned k, float other, unsigned l) {
    const bool nan = score != score, other_nan = other != other;
    if (nan | other_nan) return nan & (!other_nan | (k < l));
    return (score > other) | ((score == other) & (k < l));
}

// engine/decision.py: reduce_logits. A warp reduces a row; without labels, `ranks` and `probabilities` are not touched.
extern "C" __global__ void reduce_logits(
    unsigned short* predicted, unsigned short* ranks, float* confidence, float* probabilities,
    const float* __restrict__ logits, const int* __restrict__ labels, unsigned classes, unsigned rows) {
    const unsigned row = blockIdx.x, lane = threadIdx.x;
    if (row >= rows) return;
    const float* __restrict__ scores = logits + (long long)row * classes;
    const unsigned label = labels ? (unsigned)labels[row] : 0;
    const float wanted = scores[label];
    float best = -1.0f / 0.0f, total = 0.0f;
    unsigned winner = classes, above = 0, infinite = 0;  // a lane without a class loses to all others
    for (unsigned k = lane; k < classes; k += 32) {
        const float score = scores[k];
        const bool better = wins(score, k, best, winner);
        best = better ? score : best;
        winner = better ? k : winner;
        above += (score > wanted) | ((score == wanted) & (k < label));
        infinite |= !isfinite(score);
    }
    for (unsigned distance = 16; distance; distance /= 2) {
        const float score = __shfl_xor_sync(0xFFFFFFFFu, best, distance);
        const unsigned k = __shfl_xor_sync(0xFFFFFFFFu, winner, distance);
        const bool better = wins(score, k, best, winner);
        best = better ? score : best;
        winner = better ? k : winner;
        above += __shfl_xor_sync(0xFFFFFFFFu, above, distance);
        infinite |= __shfl_xor_sync(0xFFFFFFFFu, infinite, distance);
    }
    // Sums of sums: a thousand terms added to one float would cost two digits.
    for (unsigned k = lane; k < classes; k += 32) total += expf(scores[k] - best);
    for (unsigned distance = 16; distance; distance /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, distance);
    if (lane) return;
    predicted[row] = (unsigned short)winner;
    if (infinite) total = nanf("");
    confidence[row] = 1.0f / total;
    if (!labels) return;
    ranks[row] = (unsigned short)above;
    probabilities[row] = expf(wanted - best) / total;
}
