// SPDX-License-Identifier: GPL-2.0
//
// What this processor decided a moment ago. The packets of a busy connection come close together, and a
// look into the connection table is most of what one costs: the next ones within an eighth of a second
// find their server here. The table itself is told often enough for all that reads it: ages are counted
// in seconds there, and what was used in the last eighth of a second is not what is pushed out.
//
// Only TCP over IPv4, and nothing that changes a connection's state.

#ifndef RECENT_H
#define RECENT_H

#define RECENT 4096       // a power of two
#define RECENT_FOR (SECOND / 8)

struct recent {
	__u32 client;
	__u32 vip;
	__u16 client_port;
	__u16 vip_port;
	__u32 real;
	__u32 generation;
	__u32 pad;
	__u64 since;      // ns, as `now`; 0: empty
};

TABLE(recent, PERCPU_ARRAY, RECENT, __u32, struct recent);

// Its place in the table; null: it is none of those that are looked for there. What begins or ends a
// connection also ends what was known: the next one from the same port may have another server.
static __always_inline struct recent *recent_place(const struct packet *p, int kind)
{
	__u32 ports = (__u32)p->flow.client_port << 16 | p->flow.vip_port;
	__u32 at = (p->flow.client.word[3] ^ ports * 0x9e3779b1u) * 0x85ebca6bu >> 20;

	struct recent *r;

	if (kind != PLAIN || p->flow.family != AF_INET || p->flow.protocol != IPPROTO_TCP ||
	    p->first)
		return 0;
	r = bpf_map_lookup_elem(&recent, &at);
	if (r && p->tcp & (TCP_SYN | TCP_FIN | TCP_RST)) {
		r->since = 0;
		return 0;
	}
	return r;
}

static __always_inline struct real *recent_real(const struct packet *p, const struct recent *r,
						__u64 now, __u32 *index)
{
	if (r->client != p->flow.client.word[3] || r->vip != p->flow.vip.word[3] ||
	    r->client_port != p->flow.client_port || r->vip_port != p->flow.vip_port ||
	    now - r->since >= RECENT_FOR)
		return 0;
	*index = r->real;
	return usable(r->real, r->generation);
}

static __always_inline void keep_recent(const struct packet *p, struct recent *r,
					const struct real *real, __u32 index, __u64 now)
{
	r->client = p->flow.client.word[3];
	r->vip = p->flow.vip.word[3];
	r->client_port = p->flow.client_port;
	r->vip_port = p->flow.vip_port;
	r->real = index;
	r->generation = real->generation;
	r->since = now;
}

#endif
