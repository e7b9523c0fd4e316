//! `thymus-sensor read`: capture files to Zeek logs or JSON lines.
