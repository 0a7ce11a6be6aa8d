//! stub
use super::*;
#[derive(Debug)] pub struct MeterSetup<'a> { pub endpoint: Endpoint, pub dialect: Dialect, pub content_type: &'a str, pub content_encoding: &'a str, pub strip_usage_chunk: bool }
#[derive(Debug)] pub struct Meter;
#[derive(Debug)] pub struct Observation { pub usage: Option<Usage>, pub complete: bool, pub output_text: String, pub output_bytes: i64, pub cost_nano: Option<i64>, pub model: Option<String>, pub stream_error: Option<String> }
impl Meter { pub fn new(_: MeterSetup<'_>)->Self{Meter} pub fn push(&mut self,_c:&bytes::Bytes,_e:bool)->Option<bytes::Bytes>{None} pub fn produced(&self)->i64{0} pub fn observe(&self)->Observation{ Observation{usage:None,complete:false,output_text:String::new(),output_bytes:0,cost_nano:None,model:None,stream_error:None} } }
