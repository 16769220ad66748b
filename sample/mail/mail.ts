/** What `sendMail` is scheduled with. It is stored as JSON, so it holds nothing that JSON cannot carry. */
export interface Mail {
  to: string;
  subject: string;
}
