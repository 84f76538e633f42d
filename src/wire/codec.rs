//! A gRPC codec for [`DynamicMessage`]: one for every method, on the client's and on the server's side.

use bytes::Buf as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, prost::Message as _};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// What gRPC takes by default: 4 MiB a message.
pub const DEFAULT_MAX_SIZE: usize = 4 << 20;

/// Encodes any message and decodes messages of one type.
#[derive(Debug, Clone)]
pub struct DynamicCodec {
    decoded: MessageDescriptor,
    max_size: usize,
}

impl DynamicCodec {
    /// A codec that decodes `decoded`: the request type on a server, the response type on a client.
    pub fn new(decoded: MessageDescriptor) -> Self {
        Self { decoded, max_size: DEFAULT_MAX_SIZE }
    }

    /// The same codec for messages of at most `bytes` encoded bytes, in both directions.
    ///
    /// tonic has a limit of its own for received messages: set that too (`Grpc::max_decoding_message_size`).
    #[must_use]
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.max_size = bytes;
        self
    }
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder { max_size: self.max_size }
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder(self.clone())
    }
}

/// The sending half of [`DynamicCodec`].
#[derive(Debug)]
pub struct DynamicEncoder {
    max_size: usize,
}

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        check_size(message.encoded_len(), self.max_size)?;
        message.encode(into).map_err(|e| Status::internal(format!("message cannot be encoded: {e}")))
    }
}

/// The receiving half of [`DynamicCodec`].
#[derive(Debug)]
pub struct DynamicDecoder(DynamicCodec);

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        check_size(from.remaining(), self.0.max_size)?;
        let descriptor = self.0.decoded.clone();
        let name = descriptor.name().to_owned();
        DynamicMessage::decode(descriptor, from)
            .map(Some)
            .map_err(|e| Status::internal(format!("{name} cannot be decoded: {e}")))
    }
}

fn check_size(size: usize, limit: usize) -> Result<(), Status> {
    if size <= limit {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!("message of {size} bytes is larger than the limit of {limit}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_above_the_limit_is_refused_and_the_limit_itself_is_not() {
        assert!(check_size(10, 10).is_ok());
        let refused = check_size(11, 10).expect_err("too large");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
