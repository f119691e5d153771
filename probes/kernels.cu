// CUDA kernels that replace several passes of array code by one.
//
// Every kernel computes the same as the Python function named above it, and the tests compare the two. probes/arrays.py
// lists the arguments of the kernels and launches them.
//
// The kernels use no shared memory and no synchronization. The only warp operation is the shuffle of values, in blocks
// of one warp. The tests can therefore also compile this file for the CPU with a C++ compiler and
// tests/card/cpu_cuda.h.

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

// probes/noise.py: random_words. x is the index of a block of four words in an image, y the index of the image.
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

// probes/noise.py: unit_normal_fields. x is the index of a block of four pixels in an image, y the index of the image.
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

// probes/critical_band.py: luma_in_arrays. x is the index of a pixel, y the index of the image.
extern "C" __global__ void luma(unsigned char* out, const unsigned char* __restrict__ pixels, unsigned area) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= area) return;
    const unsigned char* image = pixels + 3ll * area * blockIdx.y + pixel;
    const unsigned red = image[0], green = image[area], blue = image[2ll * area];
    out[(long long)area * blockIdx.y + pixel] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
}

// probes/critical_band.py: bring_into_range and redraw. x is the index of a pixel, y the index of the image.
extern "C" __global__ void mix_noise(
    float* out, const float* __restrict__ grey, const float* __restrict__ band, float noise_sd,
    const unsigned long long* keys, unsigned long long seed, unsigned draw, unsigned pixels) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const long long image = blockIdx.y, place = image * pixels + pixel;
    // Round the product before adding, as the array code does. A fused multiply-add could round differently, so that a
    // pixel would be on the other side of a threshold.
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

// probes/spectral.py: spectrum, the part before the matrix products. x is the index of a pixel in a quarter of a
// channel, y the index of the channel among those of all images. Half a period further on, waves of even frequency
// repeat and waves of odd frequency change sign, so only sums and differences of the quarters are needed. The outputs
// are stored as (rows, channels, columns).
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

// probes/spectral.py: _cut, for one block. x is the index of a coefficient in the output block, y the index of the
// channel. Rows from `low_edge` on and columns from `right_edge` on belong to the highest frequency that is kept.
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

// probes/spectral.py: filters_in_arrays, the part after the matrix products. x and y are the same as in fold_quarters.
// Each input is the contribution of the even or odd rows and columns of the spectrum to the top left quarter. `low` or
// `high` may be null, then only the other output is written.
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

// Mirror a position at the border without repeating the edge pixel. One reflection is enough, because the radius of the
// filter is smaller than the image.
__device__ int mirrored(int place, int size) {
    if (place < 0) return -place;
    return place < size ? place : 2 * (size - 1) - place;
}

// probes/blur_and_shuffle.py: smooth_in_arrays. x is the index of a pixel, y the index of the image.
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

// probes/octaves.py: clip_sum_in_arrays. x is the index of a pixel, y the index of the channel among those of all
// images. `coarse` contains images, or one number per channel (coarse_area is then 1). `fine` may be null.
extern "C" __global__ void clip_sum(
    float* out, const float* __restrict__ coarse, const float* __restrict__ fine, unsigned coarse_area, unsigned area) {
    const unsigned pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= area) return;
    const long long place = (long long)area * blockIdx.y + pixel;
    float value = coarse[coarse_area == 1 ? blockIdx.y : place];
    if (fine) value += fine[place];
    out[place] = fminf(fmaxf(value, 0.0f), 1.0f);
}

// Return whether class k precedes class l in the order of NumPy's argmax: first NaN scores, then larger scores. Ties
// are resolved by the smaller class index.
__device__ bool wins(float score, unsigned k, float other, unsigned l) {
    const bool nan = score != score, other_nan = other != other;
    if (nan | other_nan) return nan & (!other_nan | (k < l));
    return (score > other) | ((score == other) & (k < l));
}

// engine/decision.py: reduce_logits. One warp reduces one row. If `labels` is null, `ranks` and `probabilities` are not
// written.
extern "C" __global__ void reduce_logits(
    unsigned short* predicted, unsigned short* ranks, float* confidence, float* probabilities,
    const float* __restrict__ logits, const int* __restrict__ labels, unsigned classes, unsigned rows) {
    const unsigned row = blockIdx.x, lane = threadIdx.x;
    if (row >= rows) return;
    const float* __restrict__ scores = logits + (long long)row * classes;
    const unsigned label = labels ? (unsigned)labels[row] : 0;
    const float wanted = scores[label];
    float best = -1.0f / 0.0f, total = 0.0f;
    unsigned winner = classes, above = 0, infinite = 0;  // a lane without any class loses against all others
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
    // Each lane sums its own terms and the partial sums are added afterwards. Adding a thousand terms to one float
    // would lose two digits of precision.
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
