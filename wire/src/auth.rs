//! The client side of authentication on the control plane: every call carries the run's token. The server decides which
//! tokens it admits ([`Token::admits`]).

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::token::{METADATA_KEY, Token};

/// An interceptor that adds the token to a client's calls.
#[derive(Clone, Debug)]
pub struct Bearer {
    value: MetadataValue<Ascii>,
}

impl Bearer {
    /// An interceptor for this token.
    #[must_use]
    pub fn new(token: &Token) -> Self {
        let mut value: MetadataValue<Ascii> =
            token.bearer().parse().expect("hexadecimal digits are a metadata value");
        // Kept out of logs, and out of HTTP/2's header compression table.
        value.set_sensitive(true);
        Self { value }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(METADATA_KEY, self.value.clone());
        Ok(request)
    }
}
