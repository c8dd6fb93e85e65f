// SPDX-License-Identifier: GPL-2.0
//
// Direct routing: a packet for a virtual server goes back out with a real server's MAC as
// destination and nothing else changed but the TTL. The real server, which holds the virtual
// address on lo, answers the client by itself.
//
// What is decided where: user space computes the table of slots of each virtual server (weights,
// Maglev); this program picks a slot by counting (rr, wrr), by load (lc, wlc, sed, nq) or by
// hashing (sh, dh, mh), and remembers the choice in the connection table.
//
// On tc the kernel finds the neighbour (bpf_redirect_neigh), so that real servers may move. On XDP
// user space has written its MAC into the table; whatever XDP can't send by itself it lets pass, and
// the program on tc, which is always there too, does it.
//
// Whatever is not for a virtual server is left alone.
//
// Needs Linux 5.10: bpf_redirect_neigh (5.10), ring buffer (5.8), bounded loops (5.3).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif
#define PACKET_HOST 0

#include "tables.h"
#include "schedule.h"
#include "packet.h"
#include "recent.h"
#include "connection.h"

// Not ours: on to the next program, or to this host.
#define LEAVE TC_ACT_UNSPEC

// As much of a packet as is ever looked at.
#define HEADERS 192

static __always_inline void *start_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *end_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

SEC("classifier")
int direct_routing(struct __sk_buff *skb)
{
	struct bpf_redir_neigh next = {};
	struct packet p = {};
	struct real *real;
	__u32 index = 0;
	int kind;

	// Frames for others, seen in promiscuous mode, are none of ours.
	if (skb->pkt_type != PACKET_HOST)
		return LEAVE;
	kind = read_packet(start_of(skb), end_of(skb), &p);
	if (kind == SHORT) {
		// The headers may lie outside of the linear part.
		if (bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS) < 0)
			return LEAVE;
		__builtin_memset(&p, 0, sizeof(p));
		kind = read_packet(start_of(skb), end_of(skb), &p);
	}
	if (kind < 0)
		return LEAVE;
	real = route(&p, kind, &index);
	if (!real)
		return LEAVE;
	if (real->flags & REAL_LOCAL) {
		count_packet(index, skb->len);
		return TC_ACT_OK;
	}
	if (lower_ttl(start_of(skb), end_of(skb), p.flow.family) < 0)
		return TC_ACT_SHOT;
	count_packet(index, skb->len);
	if (real->family == AF_INET) {
		next.nh_family = AF_INET;
		next.ipv4_nh = real->ip.word[3];
	} else {
		next.nh_family = AF_INET6;
		__builtin_memcpy(next.ipv6_nh, &real->ip, sizeof(real->ip));
	}
	return bpf_redirect_neigh(real->interface, &next, sizeof(next), 0);
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *left = (const __u16 *)a, *right = (const __u16 *)b;

	return left[0] == right[0] && left[1] == right[1] && left[2] == right[2];
}

SEC("xdp")
int direct_routing_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 in = ctx->ingress_ifindex, index = 0;
	struct ethhdr *frame = data;
	struct packet p = {};
	struct link *link;
	struct real *real;
	int kind;

	kind = read_packet(data, end, &p);
	if (kind < 0)
		return XDP_PASS;
	link = bpf_map_lookup_elem(&links, &in);
	// Frames for others: as above.
	if (!link || (void *)(frame + 1) > end ||
	    !same_mac(frame->h_dest, link->mac))
		return XDP_PASS;
	real = route(&p, kind, &index);
	if (!real || real->flags & REAL_LOCAL || !(real->flags & REAL_MAC))
		return XDP_PASS;
	if (lower_ttl(data, end, p.flow.family) < 0)
		return XDP_DROP;
	count_packet(index, end - data);
	__builtin_memcpy(frame->h_dest, real->mac, ETH_ALEN);
	__builtin_memcpy(frame->h_source, real->source, ETH_ALEN);
	if (real->interface == in)
		return XDP_TX;
	return bpf_redirect(real->interface, 0);
}

// What the two clocks show: user space runs it once.
SEC("classifier")
int read_clock(struct __sk_buff *skb)
{
	struct moment now = {};
	__u32 zero = 0;

	now.jiffies = bpf_jiffies64();
	now.ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&clock, &zero, &now, BPF_ANY);
	return LEAVE;
}

// To know what measuring alone costs.
SEC("classifier")
int nothing(struct __sk_buff *skb)
{
	return LEAVE;
}

char _license[] SEC("license") = "GPL";
