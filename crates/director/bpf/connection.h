// SPDX-License-Identifier: GPL-2.0
//
// Which connection a packet belongs to, and so which real server.

#ifndef CONNECTION_H
#define CONNECTION_H

// The peer is told again of a connection that goes on.
#define TELL_EVERY 60000000000ll

// ns of CLOCK_MONOTONIC, within a tick of the kernel's: asking for the exact time costs as much as
// all the rest.
static __always_inline __u64 about_now(const struct settings *set)
{
	if (set->tick)
		return bpf_jiffies64() * set->tick + set->offset;
	return bpf_ktime_get_ns();
}

// The same for new flows, who have the time: exact, and if the tick turns out not to be what it was
// taken for, it is not used any more.
static __always_inline __u64 exactly_now(struct settings *set, __u64 about)
{
	__u64 now = bpf_ktime_get_ns();

	if (about - now + SECOND > 2 * SECOND)
		set->tick = 0;
	return now;
}

static __always_inline void count(__u32 real, __s32 active, __s32 inactive)
{
	struct load *load = bpf_map_lookup_elem(&loads, &real);

	if (!load)
		return;
	if (active)
		__sync_fetch_and_add(&load->active, active);
	if (inactive)
		__sync_fetch_and_add(&load->inactive, inactive);
}

static __always_inline void tell(const struct flow *flow, struct connection *connection, __u64 now)
{
	__u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct event *event;

	connection->told = now;
	if (!set || !set->tell)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	event->flow = *flow;
	event->connection = *connection;
	bpf_ringbuf_submit(event, 0);
}

// A packet of a connection in `connections`. ip_vs_proto_tcp.c, "INPUT-ONLY", without the states
// that only differ in name.
static __always_inline void step(const struct packet *p, struct connection *c, __u64 now)
{
	__u32 before = c->state, after = before;

	c->seen = now;
	c->heard = 0;
	if (p->tcp & TCP_RST)
		after = CLOSED;
	else if (p->tcp & TCP_FIN && before == ESTABLISHED)
		after = FIN_WAIT;
	if (after != before) {
		c->state = after;
		if (before == ESTABLISHED)
			count(c->real, -1, 1);
		tell(&p->flow, c, now);
	} else if ((__s64)(now - c->told) > TELL_EVERY) {
		tell(&p->flow, c, now);
	}
}

// The real server of a connection that is known. Null: there is none, or it is gone.
static __always_inline struct real *known_real(struct packet *p, int kind, __u64 now,
					       __u32 *index)
{
	int opens = kind == PLAIN && (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct connection *c, done;
	struct real *real;

	if (p->flow.protocol == IPPROTO_TCP) {
		c = bpf_map_lookup_elem(&connections, &p->flow);
		if (c && opens && c->state != ESTABLISHED) {
			// The same port again, for a new connection.
			count(c->real, 0, -1);
			bpf_map_delete_elem(&connections, &p->flow);
			return 0;
		}
		if (c) {
			real = usable(c->real, c->generation);
			if (!real) {
				bpf_map_delete_elem(&connections, &p->flow);
				return 0;
			}
			*index = c->real;
			if (kind == PLAIN)
				step(p, c, now);
			return real;
		}
	}
	c = bpf_map_lookup_elem(&begun, &p->flow);
	if (!c)
		return 0;
	real = usable(c->real, c->generation);
	if (!real) {
		bpf_map_delete_elem(&begun, &p->flow);
		return 0;
	}
	*index = c->real;
	if (kind != PLAIN)
		return real;
	c->seen = now;
	c->heard = 0;
	if (p->flow.protocol == IPPROTO_TCP && !opens && !(p->tcp & TCP_RST)) {
		done = *c;
		done.state = p->tcp & TCP_FIN ? FIN_WAIT : ESTABLISHED;
		if (bpf_map_update_elem(&connections, &p->flow, &done, BPF_NOEXIST) == 0) {
			bpf_map_delete_elem(&begun, &p->flow);
			if (done.state == ESTABLISHED)
				count(done.real, 1, -1);
			c = bpf_map_lookup_elem(&connections, &p->flow);
			if (c)
				tell(&p->flow, c, now);
		}
	} else if (p->flow.protocol != IPPROTO_TCP && (__s64)(now - c->told) > TELL_EVERY) {
		tell(&p->flow, c, now);
	}
	return real;
}

static __always_inline void remember(const struct packet *p, const struct real *real, __u32 index,
				     __u64 now)
{
	struct connection fresh = {}, *c;
	struct counters *counters;

	fresh.real = index;
	fresh.generation = real->generation;
	fresh.seen = now;
	if (p->flow.protocol != IPPROTO_TCP) {
		fresh.state = DATAGRAM;
	} else if (p->tcp & TCP_SYN) {
		fresh.state = SYN_RECV;
	} else {
		// Begun on the director that died: the hash found its server.
		if (p->tcp & (TCP_FIN | TCP_RST))
			return;
		fresh.state = ESTABLISHED;
		fresh.told = now;
		if (bpf_map_update_elem(&connections, &p->flow, &fresh, BPF_NOEXIST) == 0)
			count(index, 1, 0);
		return;
	}
	if (bpf_map_update_elem(&begun, &p->flow, &fresh, BPF_NOEXIST) < 0)
		return;
	count(index, 0, 1);
	counters = bpf_map_lookup_elem(&statistics, &index);
	if (counters)
		counters->connections++;
	if (fresh.state == DATAGRAM) {
		c = bpf_map_lookup_elem(&begun, &p->flow);
		if (c)
			tell(&p->flow, c, now);
	}
}

static __always_inline void fragment_key(struct fragment_key *key, const struct packet *p)
{
	key->source = p->flow.client;
	key->destination = p->flow.vip;
	key->id = p->fragment_id;
	key->protocol = p->flow.protocol;
}

static __always_inline void remember_fragments(const struct fragment_key *key,
					       const struct real *real, __u32 index)
{
	struct fragments_of rest = {};

	rest.real = index;
	rest.generation = real->generation;
	bpf_map_update_elem(&fragments, key, &rest, BPF_ANY);
}

// Where the other fragments of this datagram go.
static __always_inline struct real *fragment_real(const struct fragment_key *key, __u32 *index)
{
	struct fragments_of *rest = bpf_map_lookup_elem(&fragments, key);

	if (!rest)
		return 0;
	*index = rest->real;
	return usable(rest->real, rest->generation);
}

// A fragment without ports that came before the first one: by the hash of the client's address, and
// the first one, when it comes, goes there too. All of a datagram must meet at one server.
static __always_inline struct real *early_fragment(struct packet *p, __u32 *index)
{
	struct service_key key = {};
	struct service *service;
	int picked;

	key.vip = p->flow.vip;
	key.protocol = p->flow.protocol;
	key.family = p->flow.family | FRAGMENTS;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return 0;
	picked = pick_slot(service->base, service->slots,
			   hash_address(&p->flow.client, 0));
	if (picked < 0)
		return 0;
	*index = picked;
	return bpf_map_lookup_elem(&reals, index);
}

// The real server for a packet. Null: leave it to this host, which refuses it by a reset or "port
// unreachable" if it is for a virtual server.
static __always_inline struct real *route(struct packet *p, int kind, __u32 *index)
{
	__u32 zero = 0, *may_be_ours, hash = hash_vip(&p->flow.vip);
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct fragment_key key = {};
	struct service *service;
	struct recent *recently;
	struct real *real;
	int may_begin;
	__u64 now;

	may_be_ours = bpf_map_lookup_elem(&addresses, &hash);
	if (!set || !may_be_ours || !*may_be_ours)
		return 0;
	now = about_now(set);
	recently = recent_place(p, kind);
	if (recently) {
		real = recent_real(p, recently, now, index);
		if (real)
			return real;
	}
	if (kind == FRAGMENT || p->first) {
		fragment_key(&key, p);
		real = fragment_real(&key, index);
		if (!real && kind == FRAGMENT) {
			real = early_fragment(p, index);
			if (real)
				remember_fragments(&key, real, *index);
		}
		if (real || kind == FRAGMENT)
			return real;
	}
	real = known_real(p, kind, now, index);
	if (real && recently)
		keep_recent(p, recently, real, *index, now);
	if (!real) {
		service = find_service(&p->flow);
		if (!service)
			return 0;
		// In the middle of a connection only a hash finds the server it began with: here,
		// or on the director that died.
		may_begin = service->flags & BY_HASH;
		if (kind == PLAIN && (p->flow.protocol != IPPROTO_TCP ||
				      (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN))
			may_begin = 1;
		if (!may_begin)
			return 0;
		now = exactly_now(set, now);
		real = choose(service, &p->flow, now, index);
		if (!real)
			return 0;
		if (kind == PLAIN && !(service->flags & ONE_PACKET))
			remember(p, real, *index, now);
	}
	if (p->first)
		remember_fragments(&key, real, *index);
	return real;
}

static __always_inline void count_packet(__u32 index, __u32 bytes)
{
	struct counters *counters = bpf_map_lookup_elem(&statistics, &index);

	if (counters) {
		counters->packets++;
		counters->bytes += bytes;
	}
}

#endif
