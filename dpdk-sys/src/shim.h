/* What Rust cannot reach: DPDK's static inline functions, a whole burst at a time, and port set-up in one call each.
 * Rust sees plain rows, never the layout of rte_mbuf. */
#ifndef THYMUS_SHIM_H
#define THYMUS_SHIM_H
#include <stdint.h>

/* A received frame. */
struct thymus_row {
    void *mbuf;          /* to be given back by thymus_free_bulk */
    const uint8_t *data; /* the first segment's bytes */
    uint32_t data_len;   /* how many */
    uint32_t packet_len; /* of the whole frame */
    uint32_t segments;   /* more than one: thymus_copy puts the frame together */
};

/* Configures a port with one receive queue and starts it, promiscuous. A negative errno on failure; *step says where. */
int thymus_port_start(uint16_t port, uint16_t descriptors, uint32_t mbufs, uint32_t data_room, const char **step);
/* Stops and closes a port. */
void thymus_port_stop(uint16_t port);
/* Receives up to max frames. */
uint16_t thymus_rx_burst(uint16_t port, uint16_t queue, struct thymus_row *rows, uint16_t max);
/* Copies the first length bytes of a frame of several segments. */
uint32_t thymus_copy(const void *mbuf, uint8_t *target, uint32_t length);
/* Gives frames back. */
void thymus_free_bulk(const struct thymus_row *rows, uint16_t count);
/* Packets missed by the port, by NIC and for want of buffers, and packets with errors. */
int thymus_port_missed(uint16_t port, uint64_t *missed, uint64_t *errors);
/* The card's own address, six bytes. */
int thymus_port_address(uint16_t port, uint8_t *address);
/* 1 where something is connected, 0 where nothing is, negative where the driver does not know. */
int thymus_port_link(uint16_t port);
#endif
