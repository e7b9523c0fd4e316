//! HTTP/1 requests with their answers (RFC 9112).

use crate::column::{Proto, table};
use crate::{Address, Time};

table! {
    /// A request with its answer.
    Http: HttpRow {
        /// The request, or the answer where no request was seen.
        1 ts: Time = "ts",
        /// Flow shard, part of the uid.
        2 shard: u8 = "shard",
        /// Number of the flow in its shard, part of the uid.
        3 sequence: u64 = "sequence",
        /// Number of this row in its flow and table, from 0.
        4 ordinal: u32 = "ordinal",
        /// Network path, by number in this batch.
        5 network: u32 = "network",
        /// Originator's address.
        6 orig_h: Address = "id.orig_h",
        /// Originator's port.
        7 orig_p: u16 = "id.orig_p",
        /// Responder's address.
        8 resp_h: Address = "id.resp_h",
        /// Responder's port.
        9 resp_p: u16 = "id.resp_p",
        /// IP protocol.
        10 proto: Proto = "proto",
        /// Number of the request in its connection, from 1.
        11 trans_depth: u32 = "trans_depth",
        /// Method.
        12 method: Option<String> = "method",
        /// Host header, without its port.
        13 host: Option<String> = "host",
        /// Request target.
        14 uri: Option<String> = "uri",
        /// Referer header.
        15 referrer: Option<String> = "referrer",
        /// Version of the answer, else of the request.
        16 version: Option<String> = "version",
        /// User-Agent header.
        17 user_agent: Option<String> = "user_agent",
        /// Bytes of the request's body, decoded from chunks.
        18 request_body_len: u64 = "request_body_len",
        /// Bytes of the answer's body, decoded from chunks.
        19 response_body_len: u64 = "response_body_len",
        /// Status code of the answer.
        20 status_code: Option<u16> = "status_code",
        /// Reason phrase of the answer.
        21 status_msg: Option<String> = "status_msg",
        /// Status code of the last interim answer (1xx).
        22 info_code: Option<u16> = "info_code",
        /// Reason phrase of the last interim answer.
        23 info_msg: Option<String> = "info_msg",
        /// User of a Basic authorization; the password is never kept.
        24 username: Option<String> = "username",
        /// Content-Type of the answer.
        25 resp_mime_type: Option<String> = "resp_mime_type",
        /// Content-Type of the request.
        26 orig_mime_type: Option<String> = "orig_mime_type",
    }
}
