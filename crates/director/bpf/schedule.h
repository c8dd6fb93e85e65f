// SPDX-License-Identifier: GPL-2.0
//
// Which real server a new connection gets.

#ifndef SCHEDULE_H
#define SCHEDULE_H

// Real servers looked at for one connection.
#define MAX_SCAN 256
// Slots tried when the first one's server is full.
#define MAX_TRY 64

static __always_inline __u32 mix(__u32 h, __u32 v)
{
	h ^= v;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

// The same on every director: the choice must survive the death of one. Constants and order are
// part of the contract between directors.
static __always_inline __u32 hash_address(const struct address *a, __u32 port)
{
	__u32 h = 0x9747b28c;

	h = mix(h, a->word[0]);
	h = mix(h, a->word[1]);
	h = mix(h, a->word[2]);
	h = mix(h, a->word[3]);
	return mix(h, port);
}

// Index into `addresses`. `layout.rs` has the same.
static __always_inline __u32 hash_vip(const struct address *a)
{
	__u32 h = a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3];

	return (h * 0x9e3779b1u) >> 20;
}

static __always_inline struct service *find_service(const struct flow *flow)
{
	struct service_key key = {};
	struct service *service;

	key.vip = flow->vip;
	key.port = flow->vip_port;
	key.protocol = flow->protocol;
	key.family = flow->family;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service) {
		key.port = 0;
		service = bpf_map_lookup_elem(&services, &key);
	}
	return service;
}

static __always_inline struct real *usable(__u32 index, __u32 generation)
{
	struct real *real = bpf_map_lookup_elem(&reals, &index);

	if (!real || !(real->flags & REAL_USABLE) || real->generation != generation)
		return 0;
	return real;
}

// As ip_vs_is_unavailable: no new connections from `upper` on until there are fewer than `lower`.
static __always_inline int has_room(const struct real *real, struct load *load)
{
	__u32 total = load->active + load->inactive;

	if (real->upper == 0)
		return 1;
	if (load->full && total < real->lower)
		load->full = 0;
	else if (!load->full && total >= real->upper)
		load->full = 1;
	return !load->full;
}

// What IPVS compares. Established connections count 256 times (ip_vs_dest_conn_overhead), except
// for the "expected delay" schedulers, which look at nothing else.
static __always_inline __u64 load_of(const struct load *load, __u32 flags)
{
	__u32 active = load->active;

	if (flags & LOAD_ACTIVE)
		return flags & IDLE_FIRST && active == 0 ? 0 : (__u64)active + 1;
	return ((__u64)active << 8) + load->inactive;
}

// The functions below are global, and get numbers alone: so the verifier walks each once, by itself
// (Linux 5.6), and not again for every way that leads there.

#define NOBODY (~0ull)

// A slot's real server in one number: load (36 bits), weight (16), index (12). NOBODY: it gets no new
// connections.
__attribute__((noinline)) __u64 weigh(__u32 slot, __u32 flags)
{
	__u32 *index = bpf_map_lookup_elem(&slots, &slot), weight;
	struct real *real;
	struct load *load;
	__u64 sum;

	if (!index)
		return NOBODY;
	real = bpf_map_lookup_elem(&reals, index);
	load = bpf_map_lookup_elem(&loads, index);
	if (!real || !load || !(real->flags & REAL_NEW) || !has_room(real, load))
		return NOBODY;
	weight = flags & BY_WEIGHT ? real->weight : 1;
	if (weight > 0xffff)
		weight = 0xffff;
	sum = load_of(load, flags);
	if (sum >= 1ull << 36)
		sum = (1ull << 36) - 1;
	return sum << 28 | (__u64)weight << 12 | (*index & 0xfff);
}

// Loads in proportion to the weights, compared without dividing. Of equals, the first.
__attribute__((noinline)) __u64 lighter(__u64 one, __u64 two)
{
	if (two == NOBODY)
		return one;
	if (one == NOBODY ||
	    (two >> 28) * (one >> 12 & 0xffff) < (one >> 28) * (two >> 12 & 0xffff))
		return two;
	return one;
}

// These two give the index of a real server in `reals`, or -1.

__attribute__((noinline)) int pick_least(__u32 base, __u32 n, __u32 flags)
{
	__u64 best = NOBODY;
	__u32 i;

	for (i = 0; i < MAX_SCAN; i++) {
		if (i >= n)
			break;
		best = lighter(best, weigh(base + i, flags));
	}
	return best == NOBODY ? -1 : (int)(best & 0xfff);
}

__attribute__((noinline)) int pick_slot(__u32 base, __u32 n, __u32 start)
{
	__u64 next;
	__u32 i;

	if (n == 0)
		return -1;
	for (i = 0; i < MAX_TRY; i++) {
		if (i >= n)
			break;
		next = weigh(base + (start + i) % n, 0);
		if (next != NOBODY)
			return next & 0xfff;
	}
	return -1;
}

static __always_inline int pick(struct service *service, const struct flow *flow)
{
	__u32 flags = service->flags, id = service->id, start;
	__u64 *turn;

	if (flags & LEAST)
		return pick_least(service->base, service->slots, flags);
	if (flags & HASH_VIP) {
		start = hash_address(&flow->vip, 0);
	} else if (flags & BY_HASH) {
		start = hash_address(&flow->client, flags & HASH_PORT ? flow->client_port : 0);
	} else {
		turn = bpf_map_lookup_elem(&turns, &id);
		if (!turn)
			return -1;
		// Two processors at the same moment may take the same turn: an atomic operation
		// that also gives the value back needs Linux 5.12.
		start = *turn;
		__sync_fetch_and_add(turn, 1);
	}
	return pick_slot(service->base, service->slots, start);
}

static __always_inline void template_key(struct flow *key, const struct service *service,
					 const struct flow *flow)
{
	key->client.word[0] = flow->client.word[0] & service->mask.word[0];
	key->client.word[1] = flow->client.word[1] & service->mask.word[1];
	key->client.word[2] = flow->client.word[2] & service->mask.word[2];
	key->client.word[3] = flow->client.word[3] & service->mask.word[3];
	key->vip = flow->vip;
	key->vip_port = service->port;
	key->protocol = flow->protocol;
	key->family = flow->family;
}

// The server a client stays with, unless it is gone or drained. Negative: none.
static __always_inline int stays_with(const struct flow *key, __u64 now)
{
	struct template *known = bpf_map_lookup_elem(&templates, key);
	struct real *real;

	// It may have been seen a moment after `now`, by another clock.
	if (!known || (__s64)(now - known->seen) >= (__s64)known->timeout)
		return -1;
	real = usable(known->real, known->generation);
	if (!real || !(real->flags & REAL_NEW))
		return -1;
	known->seen = now;
	return known->real;
}

// The real server for a new connection; null if there is none.
static __always_inline struct real *choose(struct service *service, struct flow *flow, __u64 now,
					   __u32 *index)
{
	int persistent = service->flags & PERSISTENT, picked = -1;
	struct template fresh = {};
	struct flow key = {};
	struct real *real;

	if (service->slots == 0)
		return 0;
	if (persistent) {
		template_key(&key, service, flow);
		picked = stays_with(&key, now);
	}
	if (picked >= 0) {
		*index = picked;
		real = bpf_map_lookup_elem(&reals, index);
		return real;
	}
	picked = pick(service, flow);
	if (picked < 0)
		return 0;
	*index = picked;
	real = bpf_map_lookup_elem(&reals, index);
	if (!real)
		return 0;
	if (persistent) {
		fresh.real = *index;
		fresh.generation = real->generation;
		fresh.seen = now;
		fresh.timeout = service->persistence;
		bpf_map_update_elem(&templates, &key, &fresh, BPF_ANY);
	}
	return real;
}

#endif
